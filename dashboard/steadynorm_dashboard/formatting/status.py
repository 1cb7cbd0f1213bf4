"""States as words, colors and icons. The word is always shown: color alone carries no meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.runs import Health, RevisionState, RunState, RunSummary
from steadynorm_contract.words import counted

Color = Literal["red", "orange", "blue", "violet", "gray"]


@dataclass(frozen=True, slots=True)
class Status:
    """The content of a badge."""

    word: str
    color: Color
    icon: str
    help: str


_STATES = {
    RunState.RUNNING: Status("running", "blue", ":material/play_arrow:", "Telemetry is arriving."),
    RunState.STALLED: Status("stalled", "orange", ":material/hourglass_empty:", "No telemetry for a while."),
    RunState.FINISHED: Status("finished", "gray", ":material/check:", "The training completed."),
    RunState.FAILED: Status("failed", "red", ":material/error:", "The training ended with an error."),
    RunState.STOPPED: Status("stopped", "gray", ":material/stop:", "The training was stopped."),
}

_HEALTH = {
    Health.CALM: Status("calm", "blue", ":material/check_circle:", "No recent spikes, targets near 1."),
    Health.SPIKING: Status(
        "spiking", "orange", ":material/electric_bolt:", f"Recent norms above {SPIKE_RATIO:g} times their baseline."
    ),
    Health.THROTTLED: Status(
        "throttled",
        "violet",
        ":material/speed:",
        f"A spike in the statistics keeps a target below {THROTTLED_TARGET:g}: updates are too small.",
    ),
    Health.DISCONNECTED: Status(
        "disconnected",
        "red",
        ":material/link_off:",
        "The agent neither sends telemetry nor polls: its process has ended or cannot reach the server.",
    ),
    Health.STALLED: Status(
        "stalled", "orange", ":material/hourglass_empty:", "The agent is connected, but no step was taken for a while."
    ),
    Health.NONFINITE: Status("non-finite", "red", ":material/dangerous:", "Recent NaN or infinite gradients."),
}

_DISCONNECTED = _HEALTH[Health.DISCONNECTED]
_PAUSED = Status("paused", "gray", ":material/pause:", "Paused by an operator: the job waits between two steps.")

_REVISIONS = {
    RevisionState.PENDING: Status("pending", "orange", ":material/schedule:", "The run has not applied it yet."),
    RevisionState.APPLIED: Status("applied", "blue", ":material/check:", "In effect since this step."),
    RevisionState.SUPERSEDED: Status(
        "superseded", "gray", ":material/redo:", "Replaced by a newer revision before it was applied."
    ),
    RevisionState.REJECTED: Status("rejected", "red", ":material/block:", "The run refused it."),
}


def state(of: RunState) -> Status:
    """The badge of a run's state."""
    return _STATES[of]


def state_of(run: RunSummary) -> Status:
    """The badge of a run's state, which also shows whether it is paused or disconnected."""
    if run.state is RunState.STALLED and not run.connected:
        return _DISCONNECTED
    return _PAUSED if run.applied.settings.paused and run.state.is_live else _STATES[run.state]


def ended(run: RunSummary) -> Status:
    """How an ended run ended, and whether it had NaN or infinite gradients or losses."""
    state, gradients, losses = _STATES[run.state], run.counters.nonfinite, run.counters.nonfinite_losses
    if not gradients and not losses:
        return state
    color: Color = "red" if run.state is RunState.FAILED else "orange"
    told = [state.help]
    if gradients:
        told.append(f"Some of its gradients were NaN or infinite: {gradients:,} (parameter, step).")
    if losses:
        told.append(f"Its loss was NaN or infinite in {counted(losses, 'step')}.")
    word = "non-finite" if gradients else counted(losses, "non-finite loss", "non-finite losses")
    return Status(f"{state.word}, {word}", color, ":material/dangerous:", " ".join(told))


def health(of: Health) -> Status:
    """The badge of a run's health."""
    return _HEALTH[of]


def health_of(run: RunSummary) -> Status:
    """The badge of a run's health; a paused run is not shown as stalled."""
    return _PAUSED if run.health is Health.STALLED and run.applied.settings.paused else _HEALTH[run.health]


def badges_of(run: RunSummary) -> list[Status]:
    """The badges of a run: its state and, while it is live and they differ, its health."""
    if not run.state.is_live:
        return [ended(run)]
    state, health = state_of(run), health_of(run)
    return [state, health] if health.word != state.word else [state]


def revision(of: RevisionState) -> Status:
    """The badge of a change's state."""
    return _REVISIONS[of]


def revision_words(entry: AuditEntry) -> str:
    """`pending`, `applied @ step 412`, `rejected: why` or `superseded`. Not escaped: the reason comes from an agent."""
    if entry.state is RevisionState.APPLIED and entry.applied_step is not None:
        return f"applied @ step {entry.applied_step}"
    if entry.state is RevisionState.REJECTED:
        return f"rejected: {entry.rejection or 'no reason given'}"
    return entry.state.value


def settings_words(run: RunSummary) -> str:
    """Applied and desired revision: `r3 @ step 412` if they are the same, else `r2 → r3 pending`."""
    desired, applied = run.desired, run.applied
    if desired.revision == applied.revision:
        return f"r{applied.revision} @ step {applied.step}" if applied.revision else "as registered"
    return f"r{applied.revision} → r{desired.revision} {desired.state.value}"
