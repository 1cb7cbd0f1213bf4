"""`steadynorm rollback` and `steadynorm recovery` on a job that keeps snapshots, and on one that does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job, StartJob
    from tests.support.local_server import RunningStack


@pytest.fixture
def kept(stack: RunningStack, start_job: StartJob, eventually: Any) -> Job:
    """A job with two good snapshots that the server knows; no detector acts on it."""
    import steadynorm

    recovery = steadynorm.Recovery(mode="act", every_steps=10, confirm_steps=3, detectors=[], held_steps=5)
    job = start_job(stack, "kept", recovery=recovery)

    def known() -> bool:
        found = stack.client.run(job.run_id) if job.run_id in {run.run_id for run in stack.client.runs().runs} else None
        return found is not None and found.recovery is not None and len(found.recovery.snapshots) == 2

    eventually(known)
    return job


def test_a_person_rolls_a_run_back_and_finds_it_in_the_events_the_audit_list_and_the_notes(
    steadynorm: Command, stack: RunningStack, kept: Job, eventually: Any
) -> None:
    shown = steadynorm("recovery", kept.run_id).stdout
    assert "mode       act" in shown
    assert "budget     3 automatic rollbacks left" in shown
    wrong = steadynorm("rollback", kept.run_id, "--to", "3", "--yes")
    assert wrong.returncode == 2
    assert "--to must be the step of a snapshot that is kept: got 3. Kept are" in wrong.stderr
    asked = steadynorm("rollback", kept.run_id)
    assert asked.returncode == 1, "nobody answered"
    assert "to the weights after step" in asked.stdout
    done = steadynorm("rollback", kept.run_id, "--yes", "--reason", "a poisoned shard")
    assert done.returncode == 0, done.stderr
    assert "applied at step" in done.stdout
    eventually(lambda: stack.client.run(kept.run_id).rollbacks == 1)
    record = json.loads(steadynorm("recovery", kept.run_id, "--json").stdout)
    (event,) = record["events"]
    assert event["kind"] == "rollback"
    assert event["message"].startswith(f"rolled back from {event['step']} to {event['value']:.0f}: requested by ")
    (entry,) = stack.client.audit(kept.run_id).entries
    assert f"requested by {entry.actor} as revision {entry.revision} (a poisoned shard)." in event["message"]
    assert event["actor"] == entry.actor
    assert f"requested by {entry.actor} as revision" in steadynorm("recovery", kept.run_id).stdout
    assert (entry.reason, entry.after) == ("a poisoned shard", {"rollback_generation": 1})
    eventually(lambda: [note.text for note in stack.client.notes(kept.run_id).notes] == [event["message"]])


def test_a_run_without_snapshots_says_what_to_do(steadynorm: Command, job: Job) -> None:
    assert "keeps no snapshots: pass recovery=" in steadynorm("recovery", job.run_id).stdout
    refused = steadynorm("rollback", job.run_id, "--yes")
    assert refused.returncode == 1
    assert "keeps no snapshots: pass recovery=steadynorm.Recovery() to attach()" in refused.stderr
    rejected = steadynorm("set", job.run_id, "recovery=act")
    assert rejected.returncode == 4
    assert "was attached without snapshots" in rejected.stderr
    undone = steadynorm("undo", job.run_id)
    assert undone.returncode == 0, undone.stderr
    assert "recovery act → off\napplied at step" in undone.stdout
