"""A sparkline as paths of an SVG: the mean as a line, over a band of each bucket's extremes, so that a spike shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steadynorm_contract.fleet import Spark

__all__ = ["HEIGHT", "WIDTH", "paths"]

WIDTH, HEIGHT = 100, 24
"""Of the drawing's own coordinates; a cell stretches it."""

_EDGE = 2.0  # so that a line at the top is not cut in half


def paths(spark: Spark | None, *, log: bool = False) -> tuple[str, str]:
    """Line and band, `M0,3L1,9…`, a new `M` after each gap. Empty where there is nothing to draw.

    log: norms of several sizes share a line, where one spike would press all others flat.
    """
    if spark is None:
        return "", ""
    middle = spark.mean or spark.low
    buckets = [
        None if low is None or high is None or mean is None else tuple(_scaled(each, log) for each in (low, mean, high))
        for low, mean, high in zip(spark.low, middle, spark.high, strict=True)
    ]
    shown = [value for bucket in buckets if bucket for value in bucket]
    if not shown:
        return "", ""
    least, most = min(shown), max(shown)
    across = WIDTH / max(1, len(buckets) - 1)

    def point(at: int, value: float) -> str:
        part = (value - least) / (most - least) if most > least else 0.5
        return f"{_short(at * across)},{_short(HEIGHT - _EDGE - part * (HEIGHT - 2 * _EDGE))}"

    line, band = [], []
    for stretch in _stretches(buckets):
        means = [point(at, mean) for at, (_, mean, _) in stretch]
        line.append("M" + "L".join(means if len(means) > 1 else means * 2))  # one on its own is a dot, not nothing
        if any(low < high for _, (low, _, high) in stretch):
            ends = [point(at, high) for at, (_, _, high) in stretch]
            ends += [point(at, low) for at, (low, _, _) in reversed(stretch)]
            band.append("M" + "L".join(ends) + "Z")
    return "".join(line), "".join(band)


def _stretches(buckets: Sequence[tuple[float, ...] | None]) -> list[list[tuple[int, tuple[float, ...]]]]:
    """What lies between gaps, each bucket with its place."""
    found: list[list[tuple[int, tuple[float, ...]]]] = [[]]
    for at, bucket in enumerate(buckets):
        if bucket is not None:
            found[-1].append((at, bucket))
        elif found[-1]:
            found.append([])
    return [each for each in found if each]


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _scaled(value: float, log: bool) -> float:
    return math.log10(max(value, 1e-30)) if log else value
