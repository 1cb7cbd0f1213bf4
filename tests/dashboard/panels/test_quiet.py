"""What pages watch: it stays the same while a run stands still, and changes with whatever they show of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.notes import NewNote
from steadynorm_dashboard.components import quiet_timers
from steadynorm_dashboard.panels import quiet

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, StartRun
    from tests.support.waiting import Eventually


def test_every_live_page_watches_what_it_shows(
    server: LocalStack,
    start_run: StartRun,
    open_page: OpenPage,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched: dict[str, Callable[[], quiet_timers.Seen]] = {}
    monkeypatch.setattr(quiet_timers, "watch", lambda _headers, name, poll: watched.update({name: poll}))
    monkeypatch.setattr(quiet, "_REST_S", 0.0)
    run, other, client = start_run("watched"), start_run("beside"), server.client()
    client.change(run.run_id, {"gamma2": 0.99}, revision=0)
    run.send(1)
    spike = next(event.id for event in client.events(run.run_id).events if event.step == 120)
    pages: dict[str, dict[str, str]] = {
        "overview": {},
        "run": {"run": run.run_id},
        "parameter": {"run": run.run_id, "parameter": "head.weight"},
        "incident": {"run": run.run_id, "incident": spike},
        "change": {"run": run.run_id, "change": "1"},
        "comparison": {"compare": f"{other.run_id},{run.run_id}"},
    }
    polls = {}
    for name, query in pages.items():
        open_page(**query)
        polls[name] = watched.popitem()[1]
        assert watched == {}, name
    seen = {name: poll() for name, poll in polls.items()}
    assert {name: poll() for name, poll in polls.items()} == seen
    run.send(1)
    eventually(lambda: all(poll() != seen[name] for name, poll in polls.items()))  # reads are shared for a moment
    assert polls["run"]().numbers != seen["run"].numbers
    assert polls["run"]().rest == seen["run"].rest, "a step more is no news to what shows no numbers"

    for act in (
        lambda: client.add_note(run.run_id, NewNote(text="look")),
        lambda: client.change(run.run_id, {"gamma2": 0.9}, revision=1),
    ):
        before = polls["run"]()
        assert polls["run"]() == before
        act()
        assert polls["run"]() != before
