"""`steadynorm set` on a job that trains."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job, StartJob
    from tests.support.local_server import RunningHouse


def test_set_to_what_already_holds_says_so_at_once(steadynorm: Command, job: Job) -> None:
    done = steadynorm("set", job.run_id, "gamma2=0.999")
    assert done.returncode == 0, done.stderr
    assert "has these settings already, at revision 0: nothing to do" in done.stdout
    record = json.loads(steadynorm("set", job.run_id, "gamma2=0.999", "--json").stdout)
    assert (record["revision"], record["state"]) == (0, "unchanged")


def test_set_waits_until_the_job_says_at_which_step_it_did(steadynorm: Command, house: RunningHouse, job: Job) -> None:
    done = steadynorm("set", job.run_id, "gamma2=0.9", "mode=observe", "spike_limit=null", "--reason", "calm")
    assert done.returncode == 0, done.stderr
    assert "revision 1: gamma2 0.999 → 0.9, mode stabilize → observe, spike_limit null → null" in done.stdout
    said = re.search(r"^applied at step (\d+)$", done.stdout, re.MULTILINE)
    assert said is not None
    applied = house.client.run(job.run_id).applied
    assert (applied.revision, applied.settings.gamma2, applied.settings.mode) == (1, 0.9, "observe")
    assert applied.step == int(said[1])
    assert house.client.audit(job.run_id).entries[0].reason == "calm"


def test_set_for_scripts_prints_one_object(steadynorm: Command, job: Job) -> None:
    answer = json.loads(steadynorm("set", job.run_id, "gamma1=0.5", "--json").stdout)
    assert answer["run_id"] == job.run_id
    assert (answer["revision"], answer["state"], answer["settings"]["gamma1"]) == (1, "applied", 0.5)
    assert answer["applied_step"] > 0


def test_a_counter_is_raised_by_a_plus(steadynorm: Command, house: RunningHouse, job: Job) -> None:
    for expected in (1, 2):
        assert steadynorm("set", job.run_id, "reset_generation=+1").returncode == 0
        assert house.client.run(job.run_id).applied.settings.reset_generation == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gamma2=1.0", "gamma2 must be in [0, 1): got 1.0"),
        ("gamma2=NaN", "gamma2 must be in [0, 1): got 'NaN'"),
        ("mode=fast", "mode must be off, observe or stabilize: got 'fast'"),
        ("gamma3=0.5", "gamma3 is not a setting"),
    ],
)
def test_a_bad_value_is_refused_with_its_rule(
    steadynorm: Command, house: RunningHouse, job: Job, change: str, said: str
) -> None:
    refused = steadynorm("set", job.run_id, change)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: {said}")
    assert house.client.settings(job.run_id).revision == 0


@pytest.mark.parametrize("changes", [["gamma2"], ["=1"], ["gamma2=0.9", "gamma2=0.8"]])
def test_what_is_no_change_is_wrong_usage(steadynorm: Command, job: Job, changes: list[str]) -> None:
    refused = steadynorm("set", job.run_id, *changes)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")


def test_a_job_that_refuses_a_change_is_heard(
    steadynorm: Command, house: RunningHouse, start_job: StartJob, eventually: Any
) -> None:
    job = start_job(house, "stubborn", allow=("mode",))
    eventually(lambda: any(run.run_id == job.run_id for run in house.client.runs().runs))
    refused = steadynorm("set", job.run_id, "lr_scale=0.5")
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "rejected revision 1" in refused.stderr


def test_a_run_that_ended_cannot_be_changed(
    steadynorm: Command, house: RunningHouse, job: Job, eventually: Any
) -> None:
    job.end()
    eventually(lambda: house.client.run(job.run_id).state == "finished")
    refused = steadynorm("set", job.run_id, "gamma2=0.9")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "has ended (finished)" in refused.stderr
