"""`steadynorm set` on a job that trains."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from steadynorm_cli.commands.set import send
from steadynorm_cli.errors import CommandError

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job, StartJob
    from tests.support.local_server import RunningStack


def test_set_to_what_already_holds_says_so_at_once(steadynorm: Command, job: Job) -> None:
    done = steadynorm("set", job.run_id, "gamma2=0.999")
    assert done.returncode == 0, done.stderr
    assert "has these settings already, at revision 0: nothing to do" in done.stdout
    record = json.loads(steadynorm("set", job.run_id, "gamma2=0.999", "--json").stdout)
    assert (record["revision"], record["state"]) == (0, "unchanged")


def test_set_waits_until_the_job_says_at_which_step_it_did(steadynorm: Command, stack: RunningStack, job: Job) -> None:
    done = steadynorm("set", job.run_id, "gamma2=0.9", "mode=observe", "spike_limit=3", "--reason", "calm")
    assert done.returncode == 0, done.stderr
    assert "revision 1: mode stabilize → observe, gamma2 0.999 → 0.9\n" in done.stdout, "only what changes"
    said = re.search(r"^applied at step (\d+)$", done.stdout, re.MULTILINE)
    assert said is not None
    applied = stack.client.run(job.run_id).applied
    assert (applied.revision, applied.settings.gamma2, applied.settings.mode) == (1, 0.9, "observe")
    assert applied.step == int(said[1])
    assert stack.client.audit(job.run_id).entries[0].reason == "calm"


def test_set_for_scripts_prints_one_object(steadynorm: Command, job: Job) -> None:
    answer = json.loads(steadynorm("set", job.run_id, "gamma1=0.5", "--json").stdout)
    assert answer["run_id"] == job.run_id
    assert (answer["revision"], answer["state"], answer["settings"]["gamma1"]) == (1, "applied", 0.5)
    assert answer["applied_step"] > 0


def test_a_stop_that_the_loop_does_not_look_for_says_so(steadynorm: Command, stack: RunningStack, job: Job) -> None:
    done = steadynorm("set", job.run_id, "stop=true")
    assert done.returncode == 0, done.stderr
    said = "The loop has not read agent.should_stop in any step so far. If it trains on, end its process."
    assert re.search(rf"^applied at step \d+\. {re.escape(said)}$", done.stdout, re.MULTILINE), done.stdout
    assert said in " ".join(steadynorm("show", job.run_id).stdout.split())
    refused = steadynorm("archive", job.run_id)
    assert "its loop does not read agent.should_stop: end its process, and soon after it is not live." in refused.stderr


def test_a_counter_is_raised_by_a_plus_and_a_dry_run_only_says_what_would_follow(
    steadynorm: Command, stack: RunningStack, job: Job, eventually: Any
) -> None:
    eventually(lambda: (stack.client.parameters(job.run_id).step or 0) > 3)
    told = steadynorm("set", job.run_id, "reset_generation=+1", "lr_scale=0.5", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "nothing was changed. From now on, if norms stay as they are:" in told.stdout
    assert re.search(r"parameter +target now +in 32 +in 200", told.stdout)
    assert "every update is 0.5 times as large" in told.stdout
    assert steadynorm("set", job.run_id, "gamma2=2", "--dry-run").returncode == 1
    assert stack.client.settings(job.run_id).revision == 0
    for expected in (1, 2):
        assert steadynorm("set", job.run_id, "reset_generation=+1").returncode == 0
        assert stack.client.run(job.run_id).applied.settings.reset_generation == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gamma2=1.0", "gamma2 must be in [0, 1): got 1.0"),
        ("gamma2=NaN", "gamma2 must be in [0, 1): got 'NaN'"),
        ("mode=fast", "mode must be off, observe, clip or stabilize: got 'fast'"),
        ("gamma3=0.5", "gamma3 is not a setting"),
    ],
)
def test_a_bad_value_is_refused_with_its_rule(
    steadynorm: Command, stack: RunningStack, job: Job, change: str, said: str
) -> None:
    refused = steadynorm("set", job.run_id, change)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: {said}")
    assert stack.client.settings(job.run_id).revision == 0


@pytest.mark.parametrize("changes", [["gamma2"], ["=1"], ["gamma2=0.9", "gamma2=0.8"]])
def test_what_is_no_change_is_wrong_usage(steadynorm: Command, job: Job, changes: list[str]) -> None:
    refused = steadynorm("set", job.run_id, *changes)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")


def test_a_job_that_refuses_a_change_is_heard(
    steadynorm: Command, stack: RunningStack, start_job: StartJob, eventually: Any
) -> None:
    job = start_job(stack, "stubborn")
    eventually(lambda: any(run.run_id == job.run_id for run in stack.client.runs().runs))
    job.agent._boundary.allow = ("mode", "gamma2")  # the server knows of no limit
    refused = steadynorm("set", job.run_id, "lr_scale=0.5")
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "rejected revision 1" in refused.stderr
    assert steadynorm("set", job.run_id, "gamma2=0.98").returncode == 4, "lr_scale is still desired"
    undone = steadynorm("undo", job.run_id)
    assert undone.returncode == 0, undone.stderr
    assert "lr_scale 0.5 → 1.0" in undone.stdout
    assert "gamma2 0.98 → 0.999" in undone.stdout


def test_what_the_job_does_not_allow_is_refused_at_once_and_blocks_nothing(
    steadynorm: Command, stack: RunningStack, start_job: StartJob, eventually: Any
) -> None:
    job = start_job(stack, "limited", allow=("gamma2",))
    eventually(lambda: any(run.run_id == job.run_id for run in stack.client.runs().runs))
    refused = steadynorm("set", job.run_id, "mode=observe")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: mode must be among those that the run's agent allows: gamma2.")
    assert steadynorm("set", job.run_id, "gamma2=0.98").returncode == 0
    assert steadynorm("undo", job.run_id).returncode == 0
    assert stack.client.run(job.run_id).applied.settings.gamma2 == 0.999


def test_a_preset_is_printed_as_what_it_changes(steadynorm: Command, job: Job) -> None:
    done = steadynorm("set", job.run_id, "preset=paper")
    assert "revision 1: spike_limit 3.0 → off, spike_fade true → false\n" in done.stdout


def test_a_run_that_ended_cannot_be_changed(
    steadynorm: Command, stack: RunningStack, job: Job, eventually: Any
) -> None:
    job.end()
    eventually(lambda: stack.client.run(job.run_id).state == "finished")
    refused = steadynorm("set", job.run_id, "gamma2=0.9")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "has ended (finished)" in refused.stderr
    foretold = steadynorm("set", job.run_id, "gamma2=0.9", "--dry-run")
    assert (foretold.returncode, foretold.stdout) == (1, "")
    assert "has ended (finished)" in foretold.stderr


def test_who_does_not_wait_for_the_job_is_told_what_becomes_of_the_change(
    stack: RunningStack, job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steadynorm_cli.commands.set._await_outcome", interrupted)
    with pytest.raises(KeyboardInterrupt):
        send(stack.client, stack.client.run(job.run_id), {"gamma1": 0.61}, reason="", wait=30.0, as_json=False)
    told = capsys.readouterr().err
    assert told.startswith("revision 1 is stored, and the job applies it at its next step.")
    assert f"`steadynorm undo {job.run_id}`" in told


def test_who_changes_a_run_that_is_disconnected_is_told_at_once_what_is_waited_for(
    stack: RunningStack, job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []

    def look(*_: object) -> None:
        told.append(capsys.readouterr().err)

    monkeypatch.setattr("steadynorm_cli.commands.set._await_outcome", look)
    run = msgspec.structs.replace(stack.client.run(job.run_id), connected=False)
    with pytest.raises(CommandError, match="when it reaches the server again") as ended:
        send(stack.client, run, {"gamma1": 0.61}, reason="", wait=30.0, as_json=False)
    assert ended.value.code == 5
    assert told[0].startswith("the run is disconnected: its agent was last heard from ")
    assert "Waiting up to 30 s for it" in told[0]
