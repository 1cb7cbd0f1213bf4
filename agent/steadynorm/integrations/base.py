"""Shared by the callbacks of all frameworks: one agent per training, and the operator's requests to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.agent import Agent
from steadynorm.attachment import attach
from steadynorm.clip_check import CLIP_AFTER_STABILIZER
from steadynorm.recovery_options import Recovery
from steadynorm_contract.telemetry import RunEnd


class Session:
    """One training. options: `attach()`'s, without the model and the optimizer, which the framework provides."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.agent: Agent | None = None
        self._options = dict(options)
        self._checkpoint_requested = False
        self._logged = 0

    def begin(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        run: str | None = None,
        state: Mapping[str, Any] | None = None,
        steps: int = 0,
        scaler: object = None,
    ) -> Agent:
        """Attach. run: default name of the run. state: an earlier session's, to continue from. scaler: the framework's.

        steps: that the framework has taken already, so that steps have its numbers where a checkpoint has no state.
        """
        self.end(RunEnd.FAILED, "training was started again without having ended")
        options = {**self._options, "run": self._options.get("run") or run}
        recovery = options.get("recovery")
        if isinstance(recovery, Recovery) and recovery.scaler is None:
            options["recovery"] = replace(recovery, scaler=scaler)
        agent = self.agent = attach(model, list(optimizers), **options)  # also where the state is refused: it is closed
        if state is not None:
            agent.load_state_dict(state)
        elif steps:
            agent.log(step=steps + 1)
        agent.on_checkpoint(self._request_checkpoint)
        self._logged, self._checkpoint_requested = agent.step, False
        return agent

    def end(self, state: RunEnd | None = None, reason: str = "") -> None:
        """Close the agent, if there is one."""
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.close(state=state, reason=reason)

    def log(self, loss: Tensor | float | None, scalars: Mapping[str, float] | None = None) -> None:
        """Log the newest step's loss, once per step, however many micro-batches it has. scalars: beside it."""
        agent = self.agent
        if agent is None:
            return
        if agent.step == self._logged:
            loss = None
        if loss is not None:
            self._logged = agent.step
        if loss is not None or scalars:
            agent.log(scalars, loss=loss)

    @property
    def should_stop(self) -> bool:
        """Whether an operator requested a stop."""
        return self.agent is not None and self.agent.should_stop

    def take_checkpoint_request(self) -> bool:
        """Whether an operator requested a checkpoint since the last call."""
        requested, self._checkpoint_requested = self._checkpoint_requested, False
        return requested

    def _request_checkpoint(self, step: int) -> None:
        self._checkpoint_requested = True


def numbers_of(logs: Mapping[str, object]) -> dict[str, float]:
    """What can be recorded of a framework's log line, which also holds texts, pictures and histograms."""
    return {name: float(value) for name, value in logs.items() if isinstance(value, Real)}


def warn_about_clipping(agent: Agent, setting: str, value: object) -> None:
    """Warn, once per training, that the framework clips stabilized gradients."""
    agent._check.report(
        CLIP_AFTER_STABILIZER,
        f"{setting}={value} clips the gradients to one total norm after they are stabilized, which undoes the "
        "stabilizer's scaling. Norms are measured before clipping. Turn clipping off in stabilize mode.",
    )
