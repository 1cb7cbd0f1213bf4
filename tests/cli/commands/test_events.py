"""`steadynorm events` on a job that trains and spikes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job
    from tests.support.local_server import RunningStack


def kinds(stack: RunningStack, job: Job) -> set[str]:
    """The kinds of all events of a job so far."""
    return {str(event.kind) for event in stack.client.events(job.run_id).events}


def test_events_are_told_oldest_first_and_by_kind(
    steadynorm: Command, stack: RunningStack, job: Job, eventually: Any
) -> None:
    job.poison.set()
    eventually(lambda: "nonfinite" in kinds(stack, job))
    job.spike.set()
    eventually(lambda: "spike" in kinds(stack, job))
    told = [json.loads(line) for line in steadynorm("events", job.run_id, "--json").stdout.splitlines()]
    order = [event["kind"] for event in told]
    assert order[0] == "started"
    assert order.index("nonfinite") < order.index("spike")
    spikes = steadynorm("events", job.run_id, "--kind", "spike", "--kind", "nonfinite").stdout.splitlines()
    assert len(spikes) == sum(kind in ("spike", "nonfinite") for kind in order)
    newest = steadynorm("events", job.run_id, "--kind", "started", "--kind", "nonfinite", "--limit", "1", "--json")
    assert json.loads(newest.stdout)["kind"] == "nonfinite"


def test_an_unknown_kind_is_wrong_usage(steadynorm: Command, job: Job) -> None:
    refused = steadynorm("events", job.run_id, "--kind", "explosion")
    assert refused.returncode == 2
    assert "rank_mismatch" in refused.stderr, "it says which there are"


def test_a_list_that_is_empty_says_so_beside_it(steadynorm: Command, job: Job) -> None:
    run = job.run_id
    for command, said in (
        (("runs", "--name", "of-no-run"), "no run matches, of "),
        (("events", run, "--kind", "rollback"), f"{run} has no events of kind rollback\n"),
        (("events", run, "--kind", "rollback", "--kind", "throttled"), f"{run} has no events of kind "),
        (("events", run, "--limit", "0"), ""),
        (("notes", run), f"{run} has no notes; `steadynorm note` writes one\n"),
        (("rules", run), f"{run} has no rules; `steadynorm rules {run} --add ID` makes one\n"),
        (("schedules", run), f"{run} has no schedules; `steadynorm schedule` makes one\n"),
        (("proposals", run), f"{run} has no proposals\n"),
        (("audit", run), f"nothing was done with {run} yet\n"),
    ):
        told = steadynorm(*command)
        assert (told.returncode, told.stdout) == (0, ""), command
        assert told.stderr.startswith(said), command
        assert bool(told.stderr) is bool(said), command
        as_json = steadynorm(*command, "--json")
        assert (as_json.returncode, as_json.stderr) == (0, ""), command
        for line in as_json.stdout.splitlines():
            json.loads(line)


def test_events_are_followed_until_the_run_ends(stack: RunningStack, job: Job, eventually: Any) -> None:
    following = subprocess.Popen(
        [sys.executable, "-u", "-m", "steadynorm_cli", "events", job.run_id, "--follow", "--json"],
        env=stack.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    too_late = threading.Timer(60, following.kill)
    too_late.start()
    with following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["kind"] == "started", "told, so the rest is followed"
        job.poison.set()
        eventually(lambda: "nonfinite" in kinds(stack, job))
        job.end()
        rest = [json.loads(line)["kind"] for line in following.stdout]
    too_late.cancel()
    assert following.returncode == 0
    assert "nonfinite" in rest
    assert rest[-1] == "ended"
    assert rest.count("nonfinite") == 1, "each is told once"


def test_what_a_sender_wrote_is_shown_to_a_terminal_and_not_obeyed() -> None:
    from steadynorm_cli.commands.events import event_line
    from steadynorm_contract.events import Event, EventKind

    sent = Event(id="1-0", kind=EventKind.ENDED, step=3, time=0.0, message="\x1b]0;owned\x07", batch_id="a\nb")
    line = event_line(sent)
    assert line.isprintable()
    assert "owned" in line
