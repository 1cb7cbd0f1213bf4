"""`steadynorm events`, `undo` and `watch` on a job that trains, spikes and is changed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.cli.conftest import Command
    from tests.support.jobs import Job
    from tests.support.local_server import RunningHouse


def kinds(house: RunningHouse, job: Job) -> set[str]:
    """The kinds of all events of a job so far."""
    return {str(event.kind) for event in house.client.events(job.run_id).events}


def test_events_are_told_oldest_first_and_by_kind(
    steadynorm: Command, house: RunningHouse, job: Job, eventually: Any
) -> None:
    job.poison.set()
    eventually(lambda: "nonfinite" in kinds(house, job))
    job.spike.set()
    eventually(lambda: "spike" in kinds(house, job))
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


def test_events_are_followed_until_the_run_ends(house: RunningHouse, job: Job, eventually: Any) -> None:
    following = subprocess.Popen(
        [sys.executable, "-u", "-m", "steadynorm_cli", "events", job.run_id, "--follow", "--json"],
        env=house.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    too_late = threading.Timer(60, following.kill)
    too_late.start()
    with following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["kind"] == "started", "told, so the rest is followed"
        job.poison.set()
        eventually(lambda: "nonfinite" in kinds(house, job))
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


def test_the_shell_completes_commands_and_kinds(steadynorm: Command) -> None:
    assert "--install-completion" in steadynorm("--help").stdout

    def complete(words: str) -> list[str]:
        """What bash would be offered for the last word."""
        asked = {"_STEADYNORM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return steadynorm(**asked).stdout.split()

    assert complete("steadynorm ev") == ["events"]
    assert complete("steadynorm events gpt --kind rank_") == ["rank_mismatch", "rank_failed"]


def test_undo_brings_back_an_earlier_revision_as_a_new_one(steadynorm: Command, house: RunningHouse, job: Job) -> None:
    for changes in (["gamma2=0.99"], ["mode=observe", "reset_generation=+1"]):
        assert steadynorm("set", job.run_id, *changes).returncode == 0
    undone = steadynorm("undo", job.run_id, "--reason", "no better")
    assert undone.returncode == 0, undone.stderr
    assert "revision 3: mode observe → stabilize" in undone.stdout
    assert "applied at step" in undone.stdout
    assert "nothing to do" in steadynorm("undo", job.run_id, "--to", "3").stdout, "it is there already"
    applied = house.client.run(job.run_id).applied
    assert (applied.settings.mode, applied.settings.gamma2) == ("stabilize", 0.99)
    assert applied.settings.reset_generation == 1, "what was done stays done"
    assert house.client.audit(job.run_id).entries[0].reason == "back to r1: no better"

    record = json.loads(steadynorm("undo", job.run_id, "--to", "0", "--json").stdout)
    assert (record["revision"], record["state"], record["settings"]["gamma2"]) == (4, "applied", 0.999)
    assert house.client.audit(job.run_id).entries[0].reason == "back to the settings as registered"


def test_undo_without_a_change_or_to_the_future_says_why_not(steadynorm: Command, job: Job) -> None:
    nothing = steadynorm("undo", job.run_id)
    assert nothing.returncode == 1
    assert "there is no change to take back" in nothing.stderr
    future = steadynorm("undo", job.run_id, "--to", "7")
    assert future.returncode == 2
    assert "--to must be at most 0, the newest revision: got 7" in future.stderr
    here = steadynorm("undo", job.run_id, "--to", "0")
    assert here.returncode == 0
    assert "nothing to do" in here.stdout


def test_watch_draws_a_run_and_its_newest_events(
    steadynorm: Command, house: RunningHouse, job: Job, eventually: Any
) -> None:
    job.poison.set()
    eventually(lambda: "nonfinite" in kinds(house, job))
    with ThreadPoolExecutor() as pool:
        watching = pool.submit(steadynorm, "watch", job.run_id, "--once")
        while not watching.done():  # a run's health forgets after a hundred steps, which take a second
            job.poison.set()
            time.sleep(0.2)
    seen = watching.result()
    assert seen.returncode == 0, seen.stderr
    rows = {line[:16].strip(): line for line in seen.stdout.splitlines()}
    assert "running" in rows["state"]
    assert "health nonfinite" in rows["state"]
    assert set("▁█") <= set(rows["raw norm"]), "the sparkline reaches from its least to its largest"
    assert "r0" in rows["settings"]
    assert "nonfinite" in seen.stdout


def test_watch_ends_with_the_run(steadynorm: Command, house: RunningHouse, job: Job, eventually: Any) -> None:
    job.end()
    eventually(lambda: house.client.run(job.run_id).state == "finished")
    seen = steadynorm("watch", job.run_id)
    assert seen.returncode == 0, seen.stderr
    assert "finished" in seen.stdout


def test_a_sparkline_shows_the_spike_and_the_gap() -> None:
    from steadynorm_cli.commands.watch import sparkline

    assert sparkline([1.0, None, 8.0]) == "▁ █"
    assert sparkline([1.0, 10.0, 1e7, 0.0], log=True) == "▁▂█ "
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None]) == ""
