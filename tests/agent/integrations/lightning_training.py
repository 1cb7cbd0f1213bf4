"""A tiny model and a trainer for it. Importing Lightning takes seconds, so only the process that tests it does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Lightning's own imports deprecate is not ours
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.plugins.precision import MixedPrecision

    from steadynorm.integrations.lightning import SteadyNormCallback

__all__ = [
    "At",
    "Callback",
    "MixedPrecision",
    "SteadyNormCallback",
    "Tiny",
    "Trainer",
    "make_trainer",
    "seed_everything",
]


class Tiny(LightningModule):
    """Two layers, AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        inputs, labels = batch
        return torch.nn.functional.cross_entropy(self.net(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(640, 6, generator=generator)
        return DataLoader(TensorDataset(inputs, torch.randint(3, (640,), generator=generator)), batch_size=8)


def make_trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    seed_everything(0, verbose=False)
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **options},
    )


class At(Callback):
    """Does something after a step."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.action()
