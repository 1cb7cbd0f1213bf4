"""A sparkline holds each bucket's extremes, leaves gaps where nothing was finite, and stays within its box."""

from __future__ import annotations

import re

import pytest

from steadynorm_contract.fleet import Spark
from steadynorm_dashboard.components.sparkline import HEIGHT, WIDTH, paths


def points(drawn: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", drawn)]


def path(spark: Spark | None, *, log: bool = False) -> str:
    return paths(spark, log=log)[0]


def band(spark: Spark, *, log: bool = False) -> str:
    return paths(spark, log=log)[1]


def test_spikes_far_apart_are_strokes_and_leave_the_line_where_the_run_mostly_is() -> None:
    high: list[float | None] = [1.0, 1.0, 50.0, 1.0, 1.0, 1.0, 60.0, 1.0]
    line, hull = paths(Spark([1.0] * 8, high, [1.0, 1.0, 1.2, 1.0, 1.0, 1.0, 1.3, 1.0]), log=True)
    assert min(y for _, y in points(line)) > 0.9 * HEIGHT - 3  # no square wave
    upper = [y for _, y in points(hull)[:8]]
    assert sorted(range(8), key=lambda at: upper[at])[:2] == [6, 2]
    assert hull.endswith("Z")


def test_without_an_extreme_there_is_no_band() -> None:
    assert band(Spark([1.0, 2.0], [1.0, 2.0], [1.0, 2.0])) == ""


def test_a_spike_reaches_the_top_and_stands_where_it_happened() -> None:
    drawn = points(band(Spark([1.0] * 11, [1.0, 1.0, 1.0, 1.0, 1.0, 300.0, 1.0, 1.0, 1.0, 1.0, 1.0]), log=True))
    top = min(y for _, y in drawn)
    assert [x for x, y in drawn if y == top] == [WIDTH / 2]
    assert {y for _, y in drawn} == {top, max(y for _, y in drawn)}


def test_a_calm_run_is_a_line_through_the_middle() -> None:
    assert {y for _, y in points(path(Spark([2.0] * 4, [2.0] * 4)))} == {HEIGHT / 2}


def test_nothing_leaves_the_box() -> None:
    spark = Spark([0.0, 1e-9, 5.0], [0.0, 1e9, 7.0], [0.0, 1.0, 6.0])
    drawn = points("".join(paths(spark, log=True)))
    assert len(drawn) == 9
    assert all(0 <= x <= WIDTH and 0 < y < HEIGHT for x, y in drawn)


def test_buckets_without_a_finite_value_are_a_gap() -> None:
    drawn = path(Spark([1.0, None, 3.0, 2.0], [1.0, None, 3.0, 2.0]))
    assert drawn.count("M") == 2
    assert len(points(drawn)) == 4  # a bucket alone is a dot, which takes two points


@pytest.mark.parametrize("spark", [None, Spark([], []), Spark([None], [None])])
def test_without_values_nothing_is_drawn(spark: Spark | None) -> None:
    assert path(spark) == ""


def test_on_a_logarithm_ten_and_a_hundred_are_as_far_apart_as_one_and_ten() -> None:
    ys = [y for _, y in points(path(Spark([1.0, 10.0, 100.0], [1.0, 10.0, 100.0]), log=True))]
    assert ys[2] - ys[1] == pytest.approx(ys[1] - ys[0], abs=0.11)
