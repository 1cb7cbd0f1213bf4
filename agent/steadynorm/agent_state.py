"""What can be read of an agent: its run, its settings, its statistics and its counters."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from steadynorm.copies import NotCopied
from steadynorm.faults import ErrorState
from steadynorm.recovery.control import RecoveryControl
from steadynorm.run_url import run_url
from steadynorm.self_check import AgentHealth, SelfCheck
from steadynorm.sink_feed import SinkFeed
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.step_boundary import StepBoundary
from steadynorm.transport.publisher import Publisher
from steadynorm_contract.settings import Mode, Settings
from steadynorm_contract.telemetry import AgentCounters
from steadynorm_contract.words import counted


class AgentState(NotCopied):
    """Base of the agent. Nothing here waits, except where it says so."""

    _run_id: str
    _server: str | None
    _boundary: StepBoundary
    _errors: ErrorState
    _check: SelfCheck
    _publisher: Publisher | None
    _recovery: RecoveryControl | None
    _stabilizers: list[GradientStabilizer]
    _sinks: SinkFeed | None

    @property
    def run_id(self) -> str:
        """The run's identity at the server; known before the server has been contacted."""
        return self._run_id

    @property
    def url(self) -> str | None:
        """The run's page in the dashboard if that is the user's own, else the run at the server. None without one."""
        return None if self._server is None else run_url(self._server, self._run_id)

    @property
    def closed(self) -> bool:
        """Whether `close()` or `detach()` was called."""
        return self._boundary.closed

    @property
    def step(self) -> int:
        """Optimizer steps so far, the current one included."""
        return self._boundary.step

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._boundary.settings

    @property
    def applied_revision(self) -> int:
        """Revision of the settings in force; 0: as attached."""
        return self._boundary.applied[0]

    @property
    def counters(self) -> AgentCounters:
        """Counts of records and errors: produced = acknowledged + dropped + buffered."""
        found = self._publisher.counters if self._publisher else AgentCounters(errors=self._errors.count)
        return found if self._sinks is None else msgspec.structs.replace(found, sinks_dropped=self._sinks.dropped)

    @property
    def callback_errors(self) -> int:
        """Exceptions in callbacks of `on_checkpoint` and `on_rollback`."""
        rollbacks = 0 if self._recovery is None else self._recovery.callback_errors
        return self._boundary.callback_errors + rollbacks

    @property
    def snapshots(self) -> tuple[int, ...]:
        """Steps of the good snapshots that the run can be rolled back to, the oldest first."""
        return () if self._recovery is None else tuple(self._recovery.snapshots.good)

    @property
    def stabilizers(self) -> tuple[GradientStabilizer, ...]:
        """One for each optimizer and device with parameters at `attach()`, then those of parameters added later."""
        return tuple(self._stabilizers)

    def health(self) -> AgentHealth:
        """What the agent found out about the loop: a line, and what is probably not meant, with what to do."""
        health = self._check.health
        return health if self._sinks is None else replace(health, sinks=self._sinks.states)

    def statistics(self) -> dict[str, dict[str, float]]:
        """Statistics of the last step by parameter name, see `GradientStabilizer.statistics`. Waits for the device.

        Returns:
            By parameter name: `raw_norm`, `stabilized_norm`, `target`, ... as floats.
        """
        return {name: row for each in self._stabilizers for name, row in each.statistics().items()}

    def __repr__(self) -> str:
        left = self._boundary.observe_left if self.settings.mode is Mode.STABILIZE else 0
        waits = f", after {counted(left, 'step')} in observe" if left else ""
        known = f"run_id={self._run_id!r} step={self.step} mode={self.settings.mode.value}{waits}"
        return f"<Agent {known}: {self._check.summary}>"
