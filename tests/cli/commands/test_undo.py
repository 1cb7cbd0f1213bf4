"""`steadynorm undo` on a job that trains and is changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job
    from tests.support.local_server import RunningStack


def test_undo_brings_back_an_earlier_revision_as_a_new_one(steadynorm: Command, stack: RunningStack, job: Job) -> None:
    for changes in (["gamma2=0.99"], ["mode=observe", "reset_generation=+1"]):
        assert steadynorm("set", job.run_id, *changes).returncode == 0
    undone = steadynorm("undo", job.run_id, "--reason", "no better")
    assert undone.returncode == 0, undone.stderr
    assert "revision 3: mode observe → stabilize" in undone.stdout
    assert "applied at step" in undone.stdout
    assert "nothing to do" in steadynorm("undo", job.run_id, "--to", "3").stdout, "it is there already"
    applied = stack.client.run(job.run_id).applied
    assert (applied.settings.mode, applied.settings.gamma2) == ("stabilize", 0.99)
    assert applied.settings.reset_generation == 1, "what was done stays done"
    assert stack.client.audit(job.run_id).entries[0].reason == "back to r1: no better"

    record = json.loads(steadynorm("undo", job.run_id, "--to", "0", "--json").stdout)
    assert (record["revision"], record["state"], record["settings"]["gamma2"]) == (4, "applied", 0.999)
    assert stack.client.audit(job.run_id).entries[0].reason == "back to the settings as registered"


def test_undo_without_a_change_or_to_the_future_says_why_not(steadynorm: Command, job: Job) -> None:
    nothing = steadynorm("undo", job.run_id)
    assert nothing.returncode == 1
    assert "there is no change to undo" in nothing.stderr
    future = steadynorm("undo", job.run_id, "--to", "7")
    assert future.returncode == 2
    assert "--to must be at most 0, the newest revision: got 7" in future.stderr
    here = steadynorm("undo", job.run_id, "--to", "0")
    assert here.returncode == 0
    assert "nothing to do" in here.stdout
