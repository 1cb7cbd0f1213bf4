"""A small training with recovery, for the tests of what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import steadynorm

OPTIONS: dict[str, Any] = {
    "mode": "act",
    "every_steps": 10,
    "keep": 2,
    "confirm_steps": 4,
    "held_steps": 10,
    "detectors": ["loss > 20 x median of 20 for 2 steps"],
}


class Loop:
    """A small regression, each step of which is known by its number; everything is evaluated after each step."""

    def __init__(self, optimizers: int = 1, compiled: bool = False, server: str = "", **recovery: Any) -> None:
        torch.manual_seed(0)
        self.model: Any = torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.Tanh(),
            torch.nn.Linear(8, 8),
            torch.nn.Linear(8, 1),
        )
        parts = [self.model[:2], self.model[2:]] if optimizers == 2 else [self.model]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(part.parameters(), lr=0.01, weight_decay=0.01) for part in parts
        ]
        self.forward: Callable[..., Any] = torch.compile(self.model, backend="eager") if compiled else self.model
        self.bad: dict[int, float] = {}
        self.losses: list[float] = []
        self.taken = 0
        self.log_every = 1
        self.flushes = True
        self.number: Callable[[int], int] | None = None  # the loop's own, of a step
        self.logged: Callable[[int], float] | None = None  # a loss in place of the real one
        self.own: dict[str, float] = {}  # logged under names of the loop's own
        self.events: list[tuple[int, int]] = []
        self.before: Callable[[], object] = lambda: None
        options = {**OPTIONS, **recovery}
        self.agent = steadynorm.attach(
            self.model, self.optimizers, run="t", server=server, mode="observe", recovery=steadynorm.Recovery(**options)
        )

    def train(self, steps: int) -> None:
        for _ in range(steps):
            step = self.taken = self.taken + 1
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(16, 4, generator=generator)
            targets = inputs.sum(1, keepdim=True) * self.bad.get(step, 1.0)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(self.forward(inputs), targets)
            loss.backward()
            self.before()
            for optimizer in self.optimizers:
                optimizer.step()
            self.losses.append(loss.item())
            if step % self.log_every == 0:
                self.agent.log(
                    self.own,
                    loss=loss if self.logged is None else self.logged(step),
                    batch_id=f"batch{step}",
                    step=None if self.number is None else self.number(step),
                )
            if self.flushes:
                self.agent.flush()

    def state(self) -> list[torch.Tensor]:
        """Everything that must go back, cloned."""
        found = [*self.model.parameters(), *self.model.buffers()]
        for optimizer in self.optimizers:
            found += [each for state in optimizer.state.values() for each in state.values()]
        found += [stabilizer.state for stabilizer in self.agent.stabilizers]
        return [each.detach().clone() for each in found]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


class Scaled:
    """A small regression with a GradScaler, which leaves out the steps of the batches in `bad`."""

    def __init__(self, optimizers: int = 1, enabled: bool = True, **recovery: Any) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        parts = [self.model[:1], self.model[1:]] if optimizers == 2 else [self.model]
        self.optimizers = [torch.optim.Adam(part.parameters(), lr=0.01) for part in parts]
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=enabled)
        self.bad: set[int] = set()
        self.losses: list[float] = []
        self.events: list[tuple[int, int]] = []
        self.reasons: list[str] = []
        options = {**OPTIONS, "detectors": [], "scaler": self.scaler, **recovery}
        self.agent = steadynorm.attach(
            self.model, self.optimizers, run="t", server="", mode="observe", recovery=steadynorm.Recovery(**options)
        )
        self.agent.on_rollback(self._heard)

    def _heard(self, event: steadynorm.RollbackEvent) -> None:
        self.events.append((event.from_step, event.to_step))
        self.reasons.append(event.reason)

    @torch.no_grad()
    def break_weights(self) -> None:
        for parameter in self.model.parameters():
            parameter.fill_(torch.nan)

    def train(self, batches: int) -> None:
        for _ in range(batches):
            batch = len(self.losses) + 1
            inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(batch))
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss = (self.model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
            self.scaler.scale(loss * (torch.inf if batch in self.bad else 1.0)).backward()
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            self.scaler.update()
            self.losses.append(loss.item())
            self.agent.log(loss=loss)
            self.agent.flush()

    def train_until(self, holds: Callable[[], bool], at_most: int) -> None:
        while not holds() and at_most:
            self.train(1)
            at_most -= 1
