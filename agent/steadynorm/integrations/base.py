"""What the callbacks of all frameworks share: one agent for as long as one training lasts, and what it asks for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.agent import Agent
from steadynorm.attachment import attach
from steadynorm_contract.telemetry import RunEnd

__all__ = ["Session", "warn_of_clipping"]

_log = logging.getLogger("steadynorm")


class Session:
    """options: of `attach()`, but for the model and the optimizer, which the framework knows."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.agent: Agent | None = None
        self._options = dict(options)
        self._wants_checkpoint = False
        self._logged = 0

    def begin(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        run: str | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> Agent:
        """Attach. run: a name in place of the program's. state: of a former session, to go on from."""
        self.end(RunEnd.FAILED, "the trainer began anew without having ended")
        options = {**self._options, "run": self._options.get("run") or run}
        agent = attach(model, list(optimizers), **options)
        if state is not None:
            agent.load_state_dict(state)
        agent.on_checkpoint(self._want_checkpoint)
        self.agent, self._logged, self._wants_checkpoint = agent, agent.step, False
        return agent

    def end(self, state: RunEnd | None = None, reason: str = "") -> None:
        """Close the agent, if there is one."""
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.close(state=state, reason=reason)

    def log(self, loss: Tensor | float | None) -> None:
        """The newest step's loss, once a step, however many micro-batches that has."""
        agent = self.agent
        if loss is None or agent is None or agent.step == self._logged:
            return
        self._logged = agent.step
        agent.log(loss=loss)

    @property
    def should_stop(self) -> bool:
        """Whether an operator asked for it."""
        return self.agent is not None and self.agent.should_stop

    def takes_checkpoint(self) -> bool:
        """Whether an operator asked for a checkpoint since this was asked last."""
        wanted, self._wants_checkpoint = self._wants_checkpoint, False
        return wanted

    def _want_checkpoint(self, step: int) -> None:
        self._wants_checkpoint = True


def warn_of_clipping(setting: str, value: object) -> None:
    """The framework clips what the stabilizer made. Said once a training, and only where it would happen."""
    _log.warning(
        "%s=%s clips the gradients after they are stabilized, to one total norm, and so takes back what the "
        "stabilizer decides. Measured norms are those before the clip. Switch the clip off in stabilize mode.",
        setting,
        value,
    )
