"""How soon an agent is to send its next batch. It sends what cannot wait, such as a spike, before that."""

from steadynorm_contract.schedules import ScheduleState
from steadynorm_contract.telemetry import PACE_S
from steadynorm_server.automation.rule_evaluation import rules_of
from steadynorm_server.automation.schedules import list_schedules
from steadynorm_server.runs.record import RunRecord

UNSEEN_S = 5.0
"""Of a run that nobody looks at."""
NEW_S = 60.0
"""A run that has just begun is about to be looked at, and a short one is over soon."""
_OF_SILENCE = 6
"""Batches that may be missing before a run counts as stalled."""


def pace_s(run: RunRecord, now: float, *, seen: bool, stalled_after_s: float) -> float:
    """PACE_S where somebody or something waits for its steps, else UNSEEN_S, or less where silence counts sooner.

    now: Unix seconds. seen: somebody looks at it now.
    """
    if seen or now - run.started < NEW_S or _change_pends(run) or _is_steered(run):
        return PACE_S
    return min(UNSEEN_S, max(PACE_S, stalled_after_s / _OF_SILENCE))


def _change_pends(run: RunRecord) -> bool:
    """Whether its agent has yet to say what became of the newest settings."""
    return run.desired_revision > max(run.applied_revision, run.progress.rejected_revision)


def _is_steered(run: RunRecord) -> bool:
    """Whether a rule or a schedule, which act as batches come, may change it."""
    waits = run.schedules and any(each.state is ScheduleState.WAITING for each in list_schedules(run).schedules)
    return bool(waits or (run.rules and rules_of(run).rules))
