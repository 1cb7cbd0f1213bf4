"""`steadynorm watch` on a job that trains and spikes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job
    from tests.support.local_server import RunningStack


def kinds(stack: RunningStack, job: Job) -> set[str]:
    """The kinds of all events of a job so far."""
    return {str(event.kind) for event in stack.client.events(job.run_id).events}


def test_watch_draws_a_run_and_its_newest_events(
    steadynorm: Command, stack: RunningStack, job: Job, eventually: Any
) -> None:
    job.poison.set()
    eventually(lambda: "nonfinite" in kinds(stack, job))
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


def test_watch_ends_with_the_run(steadynorm: Command, stack: RunningStack, job: Job, eventually: Any) -> None:
    job.end()
    eventually(lambda: stack.client.run(job.run_id).state == "finished")
    seen = steadynorm("watch", job.run_id)
    assert seen.returncode == 0, seen.stderr
    assert "finished" in seen.stdout


def test_a_sparkline_shows_the_spike_and_the_gap() -> None:
    from steadynorm_cli.commands.watch import sparkline

    assert sparkline([1.0, None, 8.0]) == "▁ █"
    assert sparkline([1.0, 10.0, 1e7, 0.0], log=True) == "▁▂█ "
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([None]) == ""


def test_a_narrow_terminal_has_whole_names_and_the_newest_part_of_each_line(stack: RunningStack, job: Job) -> None:
    from rich.console import Console

    from steadynorm_cli.commands.watch import _look

    for width in (60, 100):
        _, picture = _look(stack.client, job.run_id, width)
        with (screen := Console(width=width)).capture() as shown:
            screen.print(picture)
        rows = {line[:16].strip(): line.rstrip() for line in shown.get().splitlines()}
        assert {"stabilized norm", "smallest target", "settings"} <= rows.keys()
        assert "…" not in rows["raw norm"]
        assert len(rows["raw norm"]) <= width
