"""Back to an earlier revision: what has to change is read from the list of changes."""

from __future__ import annotations

from steadynorm_contract.audit import AuditEntry, revert_to
from steadynorm_contract.runs import RevisionState
from steadynorm_contract.settings import Mode, Settings


def change(revision: int, before: dict[str, object], after: dict[str, object]) -> AuditEntry:
    return AuditEntry(
        revision=revision, time=0.0, actor="ada", reason="", before=before, after=after, state=RevisionState.APPLIED
    )


NOW = Settings(gamma1=0.7, gamma2=0.95, mode=Mode.OBSERVE, reset_generation=1)
ENTRIES = [
    change(4, {"reset_generation": 0}, {"reset_generation": 1}),
    change(3, {"gamma2": 0.99, "mode": "stabilize"}, {"gamma2": 0.95, "mode": "observe"}),
    change(2, {"gamma1": 0.6}, {"gamma1": 0.7}),
    change(1, {"gamma2": 0.999}, {"gamma2": 0.99}),
]


def test_changes_are_taken_back_as_far_as_the_revision_and_no_further() -> None:
    assert revert_to(3, NOW, ENTRIES) == {}
    assert revert_to(2, NOW, ENTRIES) == {"gamma2": 0.99, "mode": "stabilize"}
    assert revert_to(1, NOW, ENTRIES) == {"gamma1": 0.6, "gamma2": 0.99, "mode": "stabilize"}
    assert revert_to(0, NOW, ENTRIES) == {"gamma1": 0.6, "gamma2": 0.999, "mode": "stabilize"}


def test_an_action_that_was_run_is_never_taken_back() -> None:
    assert "reset_generation" not in (revert_to(0, NOW, ENTRIES) or {})


def test_a_list_with_a_revision_missing_answers_nothing_rather_than_something_wrong() -> None:
    assert revert_to(0, NOW, [entry for entry in ENTRIES if entry.revision != 2]) is None
    assert revert_to(0, NOW, ENTRIES[:2]) is None
    assert revert_to(2, NOW, ENTRIES[:2]) == {"gamma2": 0.99, "mode": "stabilize"}
