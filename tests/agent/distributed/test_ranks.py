"""All ranks apply the same settings at the same step, whatever the server does and whatever fails on one of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.agent import StubServer
    from tests.support.ranks import RunRanks, StartedRanks

StartRanks = Callable[..., "StartedRanks"]
Restart = Callable[["StubServer"], "StubServer"]

START_S = 120.0  # of Python, torch and the ranks' group, on a busy machine
FAULTS = {
    "the boundary": "_boundary.begin_step",
    "measuring": "_stabilizers.0._groups.0.0._measure",
    "scaling": "_stabilizers.0._groups.0.0.scale",
    "the whole step": "_stabilizers.0.apply",
    "what ranks tell": "_boundary.would_pause",
    "what ranks are": "_ranks._status",
    "comparing them": "_ranks._compare",
}
ONLY_FIRST = "what ranks tell"  # the first of them tells


def one_history(results: list[dict[str, Any]]) -> list[list[Any]]:
    """What all ranks went through; they must agree."""
    history: list[list[Any]] = results[0]["history"]
    for result in results:
        assert result["history"] == history
        assert result["run_id"] == results[0]["run_id"]
    return history


def has_reported(stub: StubServer, revision: int) -> bool:
    return any(report.revision == revision for report in stub.run.reports)


def test_200_changes_and_a_server_that_dies_and_returns_are_one_history_on_4_ranks(
    start_ranks: StartRanks, stub: StubServer, restart: Restart
) -> None:
    started = start_ranks(4, "attached", server=stub.url, exchange_every=2)
    stub.wait_for(lambda: stub.runs and stub.run.batches, START_S)
    choose, server = random.Random(0), stub
    for change in range(200):
        if choose.random() < 0.05:
            server.kill()
            time.sleep(choose.random() / 5)  # how long it is away; nothing can be awaited of a server that is gone
            server = restart(server)
        settings: list[dict[str, object]] = [
            {"mode": choose.choice(["observe", "stabilize", "off"])},
            {"gamma2": round(choose.uniform(0.9, 0.999), 4)},
            {"spike_limit": choose.choice([None, 3.0])},
            {"lr_scale": choose.choice([0.5, 1.0])},
            {"knobs": {"coef": round(choose.random(), 4), "weight_decay": choose.choice([None, 0.0, 0.1])}},
            {"lr": choose.choice([None, 0.002])},
        ]
        revision = server.change(**choose.choice(settings))
        if change % 8 == 0:
            server.wait_for(partial(has_reported, stub, revision))
        if change == 100:
            paused = server.change(paused=True)
            server.wait_for(partial(has_reported, stub, paused))
            server.change(paused=False)
        time.sleep(0.01)  # the pace of the changes
    server.change(stop=True)
    history = one_history(results := started.results())
    revisions = [revision for _, revision, _, _ in history]
    assert revisions == sorted(revisions)
    assert revisions[-1] == stub.run.revision
    assert len(set(revisions)) > 20
    turned = results[0]["turned"]  # (revision, step, values)
    assert len(turned) > 5
    assert [result["turned"] for result in results] == [turned] * 4
    assert [result["connected"] for result in results] == [True, False, False, False]
    first_steps = {revision: step for step, revision, _, _ in reversed(history)}
    for report in stub.run.reports:
        assert report.step == first_steps.get(report.revision, report.step)
    assert len(stub.run.reports) > 20
    assert stub.run.registrations[0].world_size == 4


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tensor parallel"])
def test_an_exception_on_one_rank_hangs_nobody_and_turns_all_off_at_one_step(
    ranks: RunRanks, stub: StubServer, kind: str
) -> None:
    runs = [
        {
            "kind": kind,
            "steps": 16,  # an exchange more than the last that may turn it off
            "exchange_every": 3,
            "server": stub.url,
            "fault": {"rank": 0 if what == ONLY_FIRST else at % 2, "step": 4 + at % 3, "place": place, "once": once},
        }
        for at, (what, place) in enumerate(FAULTS.items())
        for once in (False, True)
    ]
    several: list[Any] = ranks(2, "several attached", runs=runs)
    for at, given in enumerate(runs):
        results = [each[at] for each in several]
        assert [len(result["history"]) for result in results] == [16, 16]
        assert [result["off"] for result in results] == [True, True], given
        modes = [[mode for _, _, mode, _ in result["history"]] for result in results]
        assert modes[0] == modes[1]
        assert modes[0].index("off") <= 12, given  # at most two exchanges later


def test_an_exception_on_one_rank_while_it_applies_a_change_turns_all_off_at_one_step(
    start_ranks: StartRanks, stub: StubServer
) -> None:
    fault = {"rank": 1, "step": 0, "place": "_boundary.apply_or_reject", "once": True}
    started = start_ranks(2, "attached", server=stub.url, exchange_every=3, until_off=True, fault=fault)
    stub.wait_for(lambda: stub.runs, START_S)
    stub.change(gamma2=0.9)
    first, second = started.results()
    assert [first["off"], second["off"]] == [True, True]
    assert [step for step, *_ in first["history"]] == [step for step, *_ in second["history"]]
    assert (first["history"][-1][1], second["history"][-1][1]) == (1, 0)


def test_an_exception_before_a_closures_further_evaluation_hangs_nobody(ranks: RunRanks) -> None:
    places = [FAULTS["measuring"], FAULTS["the whole step"], "_stabilizers.0.apply_again"]
    runs = [
        {
            "kind": "fsdp",
            "twice": True,
            "steps": 12,
            "exchange_every": 3,
            "fault": {"rank": at % 2, "step": step, "place": place, "once": once},
        }
        for at, place in enumerate(places)
        for step in (0, 4)
        for once in (False, True)
    ]
    several: list[Any] = ranks(2, "several attached", runs=runs)
    for at, given in enumerate(runs):
        results = [each[at] for each in several]
        assert [len(result["history"]) for result in results] == [12, 12], given
        assert [result["off"] for result in results] == [True, True], given


def test_fingerprints_that_one_rank_cannot_take_turn_all_off(ranks: RunRanks) -> None:
    fault = {"rank": 1, "step": 90, "place": "_ranks._fingerprints.take", "once": True}
    results = ranks(2, "attached", steps=210, exchange_every=50, fault=fault)
    modes = [[mode for _, _, mode, _ in result["history"]] for result in results]
    assert modes[0] == modes[1]
    assert modes[0].index("off") == 200  # taken at 100, told at 150


def test_a_rank_whose_exchange_fails_is_an_error_for_the_others_and_no_silence(ranks: RunRanks) -> None:
    fault = {"rank": 1, "step": 4, "place": "_ranks._exchange.complete", "once": True}
    results = ranks(2, "attached", steps=30, exchange_every=3, fault=fault)
    assert [len(result["history"]) for result in results] == [30, 30]
    assert [result["off"] for result in results] == [False, False]  # what was in force stays


def test_a_failing_rank_is_named_to_the_server(ranks: RunRanks, stub: StubServer) -> None:
    fault = {"rank": 1, "step": 3, "place": FAULTS["measuring"], "once": True}
    ranks(2, "attached", server=stub.url, steps=20, exchange_every=2, fault=fault)
    (note,) = [note for batch in stub.run.batches for note in batch.notes if note.kind != "self_check"]
    assert (note.kind, note.rank) == ("rank_failed", 1)
    assert "rank 1 met an internal error" in note.message
    assert stub.run.batches[-1].counters.errors == 1


def test_a_replica_whose_gradient_changed_is_named(ranks: RunRanks, stub: StubServer) -> None:
    ranks(3, "attached", server=stub.url, steps=240, exchange_every=10, spoil={"rank": 2, "step": 98})
    notes = [note for batch in stub.run.batches for note in batch.notes if note.kind != "self_check"]
    assert {(note.kind, note.rank) for note in notes} == {("rank_mismatch", 2)}
    assert any("gradient norms" in note.message for note in notes)


def test_a_restarted_run_goes_on_with_its_revision(ranks: RunRanks, stub: StubServer, tmp_path: Path) -> None:
    state = str(tmp_path / "agent.pt")
    first = ranks(2, "attached", server=stub.url, steps=12, state=state, exchange_every=2)
    revision = stub.change(gamma2=0.5, checkpoint_generation=1, stop=True)  # it trains until that reaches it
    second = ranks(2, "attached", server=stub.url, state=state, exchange_every=2, kind="fsdp")
    assert one_history(first)[-1][:2] == [12, 0]
    history = one_history(second)
    assert history[0][0] == 13
    assert history[-1][1:] == [revision, "stabilize", 0.5]
    assert history[0][1] == 0
    assert len(second[0]["checkpoints"]) == 1
    assert second[0]["run_id"] == first[0]["run_id"]
    assert second[1]["checkpoints"] == second[0]["checkpoints"]
