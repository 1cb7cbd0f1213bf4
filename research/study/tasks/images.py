"""Image classification: scikit-learn's 1,797 handwritten digits of 8×8, by a CNN and by a small vision transformer."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from study.tasks.language import Block
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Images"]

BATCH = 32
TRAINED_ON = 1400


class CNN(nn.Module):
    """Two convolutions and a linear layer: images [batch, 1, 8, 8] to logits [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.layers(images))


class ViT(nn.Module):
    """Sixteen patches of 2×2 through two transformer blocks, and the mean of all: as CNN."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(Block(width, 2, causal=False), Block(width, 2, causal=False))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return torch.as_tensor(self.head(self.norm(self.blocks(x)).mean(1)))


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] in 0…1, and labels; shuffled once."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    return images[order], torch.tensor(data.target)[order]


class Images:
    """Score: cross entropy in nats on the 397 images that are not trained on."""

    def __init__(self, device: str, *, vision_transformer: bool = False) -> None:
        images, labels = digits()
        self._images, self._labels = images.to(device), labels.to(device)
        self.model: nn.Module = (ViT() if vision_transformer else CNN()).to(device)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Mean cross entropy of the next batch."""
        chosen = torch.randint(TRAINED_ON, (BATCH,), generator=generator)
        return functional.cross_entropy(self.model(self._images[chosen]).float(), self._labels[chosen])

    @torch.no_grad()
    def score(self) -> float:
        """Over all held-out images."""
        logits = self.model(self._images[TRAINED_ON:]).float()
        return float(functional.cross_entropy(logits, self._labels[TRAINED_ON:]))
