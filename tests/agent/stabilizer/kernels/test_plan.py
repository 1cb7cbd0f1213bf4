"""The order of a step on a GPU: what is measured and scaled in which launch."""

from __future__ import annotations

import pytest

from steadynorm.stabilizer.kernels.plan import BLOCK, MOST_CHUNKS, SHORTEST_CHUNK, Plan, chunk_length


@pytest.mark.parametrize("wave_bytes", [None, 1, 3 * SHORTEST_CHUNK, 10 * SHORTEST_CHUNK])
def test_a_chunk_is_measured_once_and_scaled_once_after_all_of_its_tensor(wave_bytes: int | None) -> None:
    sizes = [1, 2 * SHORTEST_CHUNK + 1, SHORTEST_CHUNK, 0, 7] * 2
    dtypes = [0, 1] * 5
    plan = Plan(sizes, dtypes, [4, 2], wave_bytes)
    assert len(plan.columns) == sum(plan.chunk_counts)
    for launches in (plan.launches, [*plan.measuring, *plan.scaling]):
        measured: list[int] = []
        scaled: list[int] = []
        for launch in launches:
            for chunk in range(launch.scale_first, launch.scale_stop):
                first = plan.first_chunks[plan.columns[chunk]]
                assert set(range(first, first + plan.chunk_counts[plan.columns[chunk]])) <= set(measured)
                assert dtypes[plan.columns[chunk]] == launch.dtype
                scaled.append(chunk)
            measured += range(launch.measure_first, launch.measure_stop)
        assert sorted(measured) == sorted(scaled) == list(range(len(plan.columns)))
    if wave_bytes is None:
        assert len(plan.launches) == 2 * 2
    assert len(plan.measuring) == len(plan.scaling) == 2
    assert not any(launch.scale_stop > launch.scale_first for launch in plan.measuring)


def test_small_tensors_come_first_and_share_a_wave() -> None:
    large, small = 5 * 1024 * 1024, 100
    plan = Plan([large, small, large, small, small], [0] * 5, [4], wave_bytes=1 << 20)
    assert plan.columns[:3] == [1, 3, 4]
    assert [launch.measure_stop - launch.measure_first for launch in plan.launches] == [3, 640, 640, 0]


@pytest.mark.parametrize("size", [0, 1, 8 << 20, (8 << 20) + 1, 1 << 31, 1 << 40])
def test_a_tensor_has_few_enough_partial_sums_for_one_turn_and_chunks_of_whole_blocks(size: int) -> None:
    length = chunk_length(size)
    assert length % BLOCK == 0
    assert length >= SHORTEST_CHUNK
    assert -(-size // length) <= MOST_CHUNKS
    assert length < 2**31
