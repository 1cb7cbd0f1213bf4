"""A sparkline holds each bucket's extremes, leaves gaps where nothing was finite, and stays within its box."""

from __future__ import annotations

import re

import pytest

from steadynorm_contract.fleet import Spark
from steadynorm_dashboard.sparkline import HEIGHT, WIDTH, path


def points(drawn: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", drawn)]


def test_a_spike_reaches_the_top_and_stands_where_it_happened() -> None:
    drawn = points(path(Spark([1.0] * 11, [1.0, 1.0, 1.0, 1.0, 1.0, 300.0, 1.0, 1.0, 1.0, 1.0, 1.0]), log=True))
    top = min(y for _, y in drawn)
    assert [x for x, y in drawn if y == top] == [WIDTH / 2]
    assert {y for _, y in drawn} == {top, max(y for _, y in drawn)}


def test_a_calm_run_is_a_line_through_the_middle() -> None:
    assert {y for _, y in points(path(Spark([2.0] * 4, [2.0] * 4)))} == {HEIGHT / 2}


def test_nothing_leaves_the_box() -> None:
    drawn = points(path(Spark([0.0, 1e-9, 5.0], [0.0, 1e9, 7.0]), log=True))
    assert all(0 <= x <= WIDTH and 0 < y < HEIGHT for x, y in drawn)


def test_buckets_without_a_finite_value_are_a_gap() -> None:
    drawn = path(Spark([1.0, None, 3.0, 2.0], [1.0, None, 3.0, 2.0]))
    assert drawn.count("M") == 2
    assert len(points(drawn)) == 5  # a bucket alone is a dot, which takes two points


@pytest.mark.parametrize("spark", [None, Spark([], []), Spark([None], [None])])
def test_without_values_nothing_is_drawn(spark: Spark | None) -> None:
    assert path(spark) == ""


def test_on_a_logarithm_ten_and_a_hundred_are_as_far_apart_as_one_and_ten() -> None:
    ys = [y for _, y in points(path(Spark([1.0, 10.0, 100.0], [1.0, 10.0, 100.0]), log=True))]
    assert ys[-1] - ys[2] == pytest.approx(ys[2] - ys[0], abs=0.11)
