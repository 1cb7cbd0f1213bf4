"""States in words, colours and icons. The word always stands there: no meaning hangs on a colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.runs import Health, RevisionState, RunState, RunSummary

__all__ = [
    "Status",
    "health",
    "health_of",
    "looks_of",
    "revision",
    "revision_words",
    "settings_words",
    "state",
    "state_of",
]

Color = Literal["red", "orange", "blue", "violet", "gray"]


@dataclass(frozen=True, slots=True)
class Status:
    """What a badge shows."""

    word: str
    color: Color
    icon: str
    help: str


_STATES = {
    RunState.RUNNING: Status("running", "blue", ":material/play_arrow:", "Telemetry is arriving."),
    RunState.STALLED: Status("stalled", "orange", ":material/hourglass_empty:", "No telemetry for a while."),
    RunState.FINISHED: Status("finished", "gray", ":material/check:", "The training ended by itself."),
    RunState.FAILED: Status("failed", "red", ":material/error:", "The training ended with an error."),
    RunState.STOPPED: Status("stopped", "gray", ":material/stop:", "The training was stopped."),
}

_HEALTH = {
    Health.CALM: Status("calm", "blue", ":material/check_circle:", "No recent spikes, targets near 1."),
    Health.SPIKING: Status("spiking", "orange", ":material/electric_bolt:", "Norms above 10 times their RMS recently."),
    Health.THROTTLED: Status(
        "throttled", "violet", ":material/speed:", "A target is below 0.3: an old spike still holds updates back."
    ),
    Health.DISCONNECTED: Status(
        "disconnected",
        "red",
        ":material/link_off:",
        "Its agent neither sends nor listens: the process is gone, or cannot reach the server.",
    ),
    Health.STALLED: Status(
        "stalled", "orange", ":material/hourglass_empty:", "Its agent listens, but no step was taken for a while."
    ),
    Health.NONFINITE: Status("non-finite", "red", ":material/dangerous:", "NaN or infinite gradients recently."),
}

_GONE = _HEALTH[Health.DISCONNECTED]
_PAUSED = Status("paused", "gray", ":material/pause:", "An operator paused it: it waits at a boundary between steps.")

_REVISIONS = {
    RevisionState.PENDING: Status("pending", "orange", ":material/schedule:", "The run has not taken it up yet."),
    RevisionState.APPLIED: Status("applied", "blue", ":material/check:", "In force since this step."),
    RevisionState.SUPERSEDED: Status("superseded", "gray", ":material/redo:", "A newer revision came first."),
    RevisionState.REJECTED: Status("rejected", "red", ":material/block:", "The run will not follow it."),
}


def state(of: RunState) -> Status:
    """Where a run is in its life."""
    return _STATES[of]


def state_of(run: RunSummary) -> Status:
    """The same of a run, which an operator may have paused, or whose agent may be gone."""
    if run.state is RunState.STALLED and not run.connected:
        return _GONE
    waits = run.applied.settings.paused and run.state in (RunState.RUNNING, RunState.STALLED)
    return _PAUSED if waits else _STATES[run.state]


def health(of: Health) -> Status:
    """How a run does."""
    return _HEALTH[of]


def health_of(run: RunSummary) -> Status:
    """The same of a run: one that was paused is not stalled."""
    return _PAUSED if run.health is Health.STALLED and run.applied.settings.paused else _HEALTH[run.health]


def looks_of(run: RunSummary) -> list[Status]:
    """The badges of a run: its state, and how it does where that says more. Of an ended run nothing live is left."""
    state, health = state_of(run), health_of(run)
    live = run.state in (RunState.RUNNING, RunState.STALLED)
    return [state, health] if live and health.word != state.word else [state]


def revision(of: RevisionState) -> Status:
    """What became of a change."""
    return _REVISIONS[of]


def revision_words(entry: AuditEntry) -> str:
    """`pending`, `applied @ step 412`, `rejected: why` or `superseded`. Not escaped: `why` is an agent's word."""
    if entry.state is RevisionState.APPLIED and entry.applied_step is not None:
        return f"applied @ step {entry.applied_step}"
    if entry.state is RevisionState.REJECTED:
        return f"rejected: {entry.rejection or 'no reason given'}"
    return entry.state.value


def settings_words(run: RunSummary) -> str:
    """Desired against applied: `r3` where they agree, else what is under way."""
    desired, applied = run.desired, run.applied
    if desired.revision == applied.revision:
        return f"r{applied.revision} @ step {applied.step}" if applied.revision else "as registered"
    return f"r{applied.revision} → r{desired.revision} {desired.state.value}"
