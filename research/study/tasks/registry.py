"""The tasks by name, with how long they train and the rate at which they train well with nothing done to gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from study.tasks.language import Language
from torch import Tensor, nn

__all__ = ["TASKS", "Task", "TaskKind"]


class Task(Protocol):
    """A model and its data."""

    model: nn.Module

    def loss(self, generator: torch.Generator) -> Tensor:
        """0-dim: the training loss of the next batch, which `generator` draws."""

    def score(self) -> float:
        """How good the model is now on what it was not trained on: lower is better."""


@dataclass(frozen=True, slots=True)
class TaskKind:
    """How a task is made. make(device, seed); torch's global generator, seeded, makes the weights.

    by_chance: the score of a policy that acts at random, of tasks whose training loss is no such score.
    """

    make: Callable[[str, int], Task]
    steps: int
    unit: str
    rates: dict[str, float]
    by_chance: float | None = None


def _cnn(device: str, seed: int) -> Task:
    from study.tasks.images import Images  # each task's libraries are imported where it is used

    return Images(device)


def _vit(device: str, seed: int) -> Task:
    from study.tasks.images import Images

    return Images(device, vision_transformer=True)


def _forecast(device: str, seed: int) -> Task:
    from study.tasks.forecast import Forecast

    return Forecast(device)


def _cartpole(device: str, seed: int) -> Task:
    from study.tasks.control import Control

    return Control(device, seed=seed)


def _bandit(device: str, seed: int) -> Task:
    from study.tasks.bandit import Bandit

    return Bandit(device, seed)


def _pendulum(device: str, seed: int) -> Task:
    from study.tasks.control import Control

    return Control(device, pendulum=True, seed=seed)


TASKS: dict[str, TaskKind] = {
    "language": TaskKind(
        lambda device, seed: Language(device),
        250,
        "nats a character",
        {"adamw": 3e-3, "adamw 0.95": 3e-3, "sgd": 1e-1, "lion": 3e-4, "muon": 3e-3},
    ),
    "digits-cnn": TaskKind(_cnn, 200, "nats an image", {"adamw": 3e-3, "sgd": 1e-1, "lion": 3e-4}),
    "digits-vit": TaskKind(_vit, 200, "nats an image", {"adamw": 3e-3}),
    "co2": TaskKind(_forecast, 200, "ppm²", {"adamw": 1e-2}),
    "cartpole": TaskKind(_cartpole, 640, "minus the return", {"adamw": 3e-3}, by_chance=-22),
    "pendulum": TaskKind(_pendulum, 1280, "minus the return", {"adamw": 1e-3}, by_chance=1200),
    "bandit": TaskKind(_bandit, 1000, "regret a pull", {"adamw": 1e-2, "sgd": 1e-1}, by_chance=1.5),
    "language-large": TaskKind(
        lambda device, seed: Language(device, width=512, layers=8, context=256, batch=32),
        600,
        "nats a character",
        {"adamw": 1e-3},
    ),
}
"""The last one is for a GPU."""
