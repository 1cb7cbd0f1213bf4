"""A sharded run and a run of one process see the same norms and make the same gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.ranks import RunRanks

STEPS = 36


@pytest.mark.parametrize(
    ("world", "kinds"),
    [
        (2, {"fsdp": 1, "tensor parallel": 1}),
        (3, {"fsdp": 1}),
        (4, {"fsdp": 1, "offload": 1, "hybrid": 1, "tensor parallel and fsdp": 2, "bf16": 1}),
    ],
)
def test_every_gradient_equals_that_of_one_process_through_live_changes(
    ranks: RunRanks, world: int, kinds: dict[str, int]
) -> None:
    results = ranks(world, "equal one process", kinds=list(kinds), steps=STEPS)
    for kind, meshes in kinds.items():
        for result in (each[kind] for each in results):
            if kind != "bf16":  # which computes other gradients
                assert result["gradient_error"] < 1e-5, kind
            assert result["norm_error"] < 1e-6, kind
            assert result["scales"] > 20, kind  # it did something in most steps
            assert result["meshes"] == meshes  # so many all-reduces a step
            assert result["collectives"] == STEPS
            assert result["rows"] == results[0][kind]["rows"], kind
    assert sum(each["fsdp"]["empty"] for each in results) >= world - 1  # of the bias of one element


def test_placements_side_by_side_and_ranks_without_gradients(ranks: RunRanks) -> None:
    results = ranks(4, "odd gradients")
    whole = [math.sqrt(385), math.sqrt(15), math.sqrt(24), math.sqrt(24), math.sqrt(2), 0.0]
    # Without rank 1's part: elements 4 to 6 of ten over four ranks; of a tensor that pairs hold, half of one half.
    parts = [math.sqrt(385 - 16 - 25 - 36), math.sqrt(15), math.sqrt(18), math.sqrt(24), math.sqrt(2), 0.0]
    for result in results:
        assert result["norms"][0] == pytest.approx(whole, rel=1e-6)
        assert result["norms"][1] == pytest.approx(parts, rel=1e-6)
        assert result["zeros"] == 0.0  # a NaN on the last rank zeroes the tensor on all
        assert result["others"] > 0.0
