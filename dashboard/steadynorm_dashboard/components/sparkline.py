"""Sparklines as SVG paths: the mean as a line over a band of each bucket's extremes, so that spikes are visible."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steadynorm_contract.fleet import Spark

WIDTH, HEIGHT = 100, 24
"""The drawing's coordinates; it is stretched to the table's cell."""

_EDGE = 2.0  # so that a line at the top is not clipped


def paths(spark: Spark | None, *, log: bool = False) -> tuple[str, str]:
    """Line and band, `M0,3L1,9…`, with a new `M` after each gap. Empty if there is nothing to draw.

    log: on a linear scale one spike would flatten the rest of a line of norms.
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
    for segment in _segments(buckets):
        means = [point(at, mean) for at, (_, mean, _) in segment]
        line.append("M" + "L".join(means if len(means) > 1 else means * 2))  # a single point is drawn as a dot
        if any(low < high for _, (low, _, high) in segment):
            ends = [point(at, high) for at, (_, _, high) in segment]
            ends += [point(at, low) for at, (low, _, _) in reversed(segment)]
            band.append("M" + "L".join(ends) + "Z")
    return "".join(line), "".join(band)


def _segments(buckets: Sequence[tuple[float, ...] | None]) -> list[list[tuple[int, tuple[float, ...]]]]:
    """The buckets between gaps, each with its index."""
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
