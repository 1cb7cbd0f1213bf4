"""Language modelling: a character GPT on the documentation that Python carries with it (`pydoc_data.topics`)."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Language"]

HELD_OUT = 0.1
"""Share of the text, its end, that is not trained on."""


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, causal: bool = True) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return x


class GPT(nn.Module):
    """Predicts the next character: indices [batch, length] to logits [batch, length, vocabulary]."""

    def __init__(self, vocabulary: int, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, max(2, width // 64)) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, text: Tensor) -> Tensor:
        x: Tensor = self.characters(text) + self.positions(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.head(self.norm(x)))


@cache
def corpus() -> tuple[Tensor, int]:
    """The text as character indices [characters], and the size of the vocabulary."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    return torch.tensor([index[character] for character in text]), len(index)


class Language:
    """Score: cross entropy in nats a character on the held-out end of the text."""

    def __init__(self, device: str, *, width: int = 64, layers: int = 2, context: int = 32, batch: int = 16) -> None:
        text, vocabulary = corpus()
        cut = int(len(text) * (1 - HELD_OUT))
        self._train, self._held_out = text[:cut], text[cut:]
        self._device, self._context, self._batch = device, context, batch
        self.model: nn.Module = GPT(vocabulary, width, layers, context).to(device)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Mean cross entropy of the next batch."""
        return self._loss(self._train, self._batch, generator)

    def bad_loss(self, generator: torch.Generator, labels: torch.Generator) -> Tensor:
        """The same of a batch whose labels are shuffled among its places."""
        return self._loss(self._train, self._batch, generator, labels)

    @torch.no_grad()
    def score(self) -> float:
        """Over the same windows in every run."""
        return float(self._loss(self._held_out, 256, torch.Generator().manual_seed(0)))

    def _loss(
        self, text: Tensor, batch: int, generator: torch.Generator, labels: torch.Generator | None = None
    ) -> Tensor:
        starts = torch.randint(len(text) - self._context - 1, (batch, 1), generator=generator)
        windows = text[starts + torch.arange(self._context + 1)].to(self._device)
        logits = self.model(windows[:, :-1])
        expected = windows[:, 1:].flatten()
        if labels is not None:
            expected = expected[torch.randperm(len(expected), generator=labels).to(self._device)]
        return functional.cross_entropy(logits.flatten(0, 1).float(), expected)
