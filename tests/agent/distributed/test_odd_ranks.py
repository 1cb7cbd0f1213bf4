"""Ranks that step differently, shard by themselves, or reduce late: refused or said, and never in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.agent import StubServer
    from tests.support.ranks import RunRanks, StartedRanks

LONGEST_S = 4.0  # of waiting for other ranks: two, and the pauses of a busy machine


@pytest.fixture
def odd(start_ranks: Callable[..., StartedRanks]) -> RunRanks:
    """odd(world, scenario, **arguments): what each rank returned."""
    return lambda world, scenario, **arguments: start_ranks(
        world, scenario, program="odd_rank_scenarios", **arguments
    ).results()


@pytest.mark.serial
@pytest.mark.parametrize("kind", ["join", "skips"])
def test_ranks_with_other_numbers_of_steps_are_not_held_up(odd: RunRanks, stub: StubServer, kind: str) -> None:
    results = odd(2, "uneven", kind=kind, server=stub.url)
    for rank, result in enumerate(results):
        assert result["step"] == result["taken"]
        assert result["waited_s"] < LONGEST_S
        assert result["mode"] == "stabilize"  # what was in force stays
        ended = kind == "join" and rank == 0  # it is out of data, and has nothing to exchange
        assert result["findings"] == ([] if ended else ["ranks_apart"])
        assert len([text for text in result["messages"] if "exchange" in text]) == (not ended)
    assert [result["taken"] for result in results] == ([15, 60] if kind == "join" else [120, 80])
    if kind == "join":
        return
    assert results[0]["weights"] == pytest.approx(results[1]["weights"])
    notes = [note for batch in stub.run.batches for note in batch.notes]
    (note,) = [note for note in notes if note.kind == "finding"]
    assert "numbers of steps" in note.message


def test_a_rank_that_does_not_call_attach_is_named_by_those_that_wait_for_it(odd: RunRanks) -> None:
    waiting, late = odd(2, "late")
    (told,) = [text for text in waiting if "waits for" in text]
    assert told.startswith("WARNING attach() waits for rank 1 of 2")
    assert "Every rank must call attach()" in told
    assert not [text for text in late if "waits for" in text]


@pytest.mark.parametrize("kind", ["inside step", "average of weights"])
def test_replicas_that_are_averaged_in_the_optimizers_step_or_after_it_fall_back_to_observe(
    odd: RunRanks, stub: StubServer, kind: str
) -> None:
    for result in odd(2, "recorded replicas", kind=kind, server=stub.url):
        assert result["findings"] == ["reduced_in_step"]
        assert (result["mode"], result["stabilizer"]) == ("observe", "observe")
        assert result["scale"] == 1.0, "a gain of its own on each rank would turn the average"
        assert len([text for text in result["messages"] if text.startswith("ERROR")]) == 1
    notes = [note for batch in stub.run.batches for note in batch.notes if note.kind == "rank_mismatch"]
    said = "these inside of optimizer.step(), or the weights after it"
    assert [(note.rank, said in note.message) for note in notes] == [(1, True)]
    assert stub.run.reports[-1].settings.mode == "observe"
    assert stub.run.reports[-1].reason


def test_ranks_that_are_no_such_replicas_stay_as_they_are(odd: RunRanks) -> None:
    kinds = ["before step", "experts", "local SGD", "pipeline", "apart", "idle inside step"]
    results: list[Any] = odd(2, "replicas", kinds=kinds)
    for rank, result in enumerate(results):
        for kind, found in result.items():
            expected = ["other_parameters"] if kind == "pipeline" and rank == 0 else []
            assert found["findings"] == expected, kind
            assert found["mode"] == "stabilize", kind
            assert not [text for text in found["messages"] if text.startswith("ERROR")], kind
    (said,) = [text for text in results[0]["pipeline"]["messages"] if "other parameters" in text]
    assert "rank 1 of 2" in said
    assert "rank 0's only" in said
    assert "rank 0 of 2" in results[0]["experts"]["repr"]


def test_shards_that_are_no_dtensors_are_refused_on_all_ranks(odd: RunRanks) -> None:
    for said in odd(2, "foreign shards"):
        for name in ("original", "flat", "a part", "inside", "on one rank"):
            assert "fully_shard" in said[name], name
        assert "FullyShardedDataParallel" in said["original"]
        assert "FullyShardedDataParallel (first)" in said["a part"]
        assert "ds_id" in said["on one rank"]
        assert (said["not sharded"], said["ddp"]) == ("", "")


def test_state_that_is_partitioned_over_ranks_changes_no_step(odd: RunRanks) -> None:
    for result in odd(2, "zero"):
        for whole, partitioned in zip(result["whole"], result["partitioned"], strict=True):
            assert whole == pytest.approx(partitioned, rel=1e-5)


def test_a_forked_child_of_a_rank_closes_without_waiting_for_ranks(odd: RunRanks) -> None:
    for result in odd(2, "fork"):
        assert result == {"child": 0, "step": 15, "findings": []}
