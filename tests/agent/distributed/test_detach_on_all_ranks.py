"""detach() on all ranks leaves the optimizer that one process would be left with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.ranks import StartedRanks


def furthest(first: list[list[float]], second: list[list[float]]) -> float:
    """Largest difference of two weights, beside the largest weight."""
    pairs = [(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    return max(abs(a - b) for a, b in pairs) / max(abs(a) for a, _ in pairs)


def test_a_detached_run_of_several_ranks_goes_the_way_of_one_process(
    start_ranks: Callable[..., StartedRanks],
) -> None:
    def run(world: int, **arguments: object) -> list[dict[str, Any]]:
        return start_ranks(world, "left", program="detach_scenarios", **arguments).results()

    (alone,) = run(1, kind="ddp")
    (unfolded,) = run(1, kind="ddp", fold=False)
    assert alone["exact"]
    assert all(gain > 2 or gain < 0.5 for gain in alone["gains"]), "the gains must matter"
    assert furthest(unfolded["after"], alone["after"]) > 1e-3, "folding must matter"
    for kind in ("ddp", "fsdp"):
        for result in run(2, kind=kind):
            assert result["exact"], kind
            assert result["gains"] == pytest.approx(alone["gains"], rel=1e-4), kind
            assert result["eps_shares"] == pytest.approx(alone["eps_shares"], rel=1e-3, abs=0), kind
            assert furthest(result["before"], alone["before"]) < 1e-5, kind
            assert furthest(result["after"], alone["after"]) < 1e-5, kind
            assert furthest(result["after"], result["before"]) > 1e-3, "the weights must have moved"
