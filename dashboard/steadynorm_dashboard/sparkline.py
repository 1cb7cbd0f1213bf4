"""A sparkline as the path of an SVG: one line up and down through each bucket's extremes, so that a spike shows."""

from __future__ import annotations

import math

from steadynorm_contract.fleet import Spark

__all__ = ["HEIGHT", "WIDTH", "path"]

WIDTH, HEIGHT = 100, 24
"""Of the drawing's own coordinates; a cell stretches it."""

_EDGE = 2.0  # so that a line at the top is not cut in half


def path(spark: Spark | None, *, log: bool = False) -> str:
    """`M0,3L0,9…`, a new `M` after each gap. Empty where there is nothing to draw.

    log: norms of several sizes share a line, where one spike would press all others flat.
    """
    if spark is None:
        return ""
    buckets = [
        (_scaled(low, log), _scaled(high, log)) if low is not None and high is not None else None
        for low, high in zip(spark.low, spark.high, strict=True)
    ]
    shown = [value for bucket in buckets if bucket for value in bucket]
    if not shown:
        return ""
    least, most = min(shown), max(shown)
    across = WIDTH / max(1, len(buckets) - 1)

    def y(value: float) -> str:
        part = (value - least) / (most - least) if most > least else 0.5
        return f"{HEIGHT - _EDGE - part * (HEIGHT - 2 * _EDGE):.1f}".removesuffix(".0")

    drawn, upwards = [], True
    for at, bucket in enumerate(buckets):
        if bucket is None:
            continue
        begins = at == 0 or buckets[at - 1] is None
        x = f"{at * across:.1f}".removesuffix(".0")
        ends = bucket if upwards else bucket[::-1]
        points = [f"{x},{y(value)}" for value in dict.fromkeys(ends)]
        if begins and len(points) == 1:
            points.append(f"{x},{points[0].split(',')[1]}")  # a bucket on its own is a dot, not nothing
        drawn.append(("M" if begins else "L") + "L".join(points))
        upwards = not upwards  # the next bucket begins where this one ended: fewer zigzags
    return "".join(drawn)


def _scaled(value: float, log: bool) -> float:
    return math.log10(max(value, 1e-30)) if log else value
