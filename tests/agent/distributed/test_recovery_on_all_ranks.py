"""All ranks go back to the same snapshot at the same boundary, or none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.ranks import RunRanks, StartedRanks


@pytest.fixture
def recovery(start_ranks: Callable[..., StartedRanks]) -> RunRanks:
    """recovery(world, scenario, **arguments): what each rank returned."""
    return lambda world, scenario, **arguments: start_ranks(
        world, scenario, program="recovery_scenarios", **arguments
    ).results()


def test_four_ranks_are_brought_back_at_one_boundary_however_they_share_the_model(recovery: RunRanks) -> None:
    kinds = ["ddp", "tensor parallel and fsdp"]
    results: list[Any] = recovery(4, "rolled back", kinds=kinds)
    for kind in kinds:
        of_kind = [result[kind] for result in results]
        first = of_kind[0]
        (event,) = first["events"]
        assert 38 <= event[0] <= 44, kind
        assert event[1] == 30, kind
        for result in of_kind:
            assert result["events"] == [event], kind
            assert result["restored"] == [True], kind
            assert (result["step"], result["off"], result["held"]) == (60, False, 1.0), kind
            assert result["snapshots"] == first["snapshots"], kind
        assert [len([text for text in each["said"] if "rolled back" in text]) for each in of_kind] == [1, 0, 0, 0]


def test_a_fault_that_only_the_mean_of_the_ranks_shows_brings_all_back(recovery: RunRanks) -> None:
    first, second = [result["ddp"] for result in recovery(2, "rolled back", kinds=["ddp"], mean=True)]
    (event,) = first["events"]
    assert event[1] == 30
    assert 40 <= event[0] <= 50  # values come two or three exchanges after their step
    assert second["events"] == [event]
    assert (first["restored"], second["restored"], first["off"], second["off"]) == ([True], [True], False, False)


def test_where_one_rank_lost_its_snapshot_nothing_is_restored_and_all_agents_are_off(recovery: RunRanks) -> None:
    for result in recovery(2, "rolled back", kinds=["fsdp"], lost_on=1):
        found = result["fsdp"]
        assert (found["events"], found["off"], found["taken"]) == ([], True, 60)
        (said,) = [text for text in found["said"] if "turned off on all ranks" in text]
        assert "rank 1 does not hold the snapshot" in said


def test_a_fault_that_stays_asks_all_ranks_to_stop_at_one_step(recovery: RunRanks) -> None:
    results = [result["ddp"] for result in recovery(2, "rolled back", kinds=["ddp"], stay=True, steps=200)]
    assert [len(result["events"]) for result in results] == [3, 3]
    assert results[0]["events"] == results[1]["events"]
    assert all(result["stopped"] for result in results)
    assert results[0]["step"] == results[1]["step"] < 120


def test_a_rank_that_fails_after_all_agreed_goes_back_with_the_others(recovery: RunRanks) -> None:
    results = [result["ddp"] for result in recovery(2, "rolled back", kinds=["ddp"], error_on=1)]
    assert len(results[0]["events"]) == 1
    assert results[0]["events"] == results[1]["events"]
    assert [(result["restored"], result["off"], result["held"]) for result in results] == [([True], True, 1.0)] * 2


def test_weights_that_break_on_one_rank_bring_all_back(recovery: RunRanks) -> None:
    first, second = recovery(2, "broken")
    assert first == second
    assert first["events"][0][1] == 40
    assert (len(first["events"]), first["off"], first["finite"]) == (1, False, True)


def test_ranks_whose_scalers_leave_out_every_step_go_back_at_one_boundary(recovery: RunRanks) -> None:
    first, second = recovery(2, "skipped")
    assert first == second
    assert first["events"] == [[35, 30]]
    assert first["step"] >= 50  # of 60, but for those that were left out until both had agreed
    assert not first["off"]


def test_ranks_that_disagree_on_the_interval_are_refused(recovery: RunRanks) -> None:
    said: Any
    for said in recovery(2, "disagreeing"):
        assert said.startswith("recovery must be the same on all ranks: got Recovery(every_steps=10")
