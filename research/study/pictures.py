"""What the study draws: losses by step, scores by a number, what a switch did. A method has one colour everywhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from study import svg
from study.methods import METHODS
from study.svg import Line, Panel
from study.tables import mean, spread
from study.trial import CURVE_STEPS, Outcome

__all__ = ["apart", "draw", "losses", "scores"]

STRONG = ("nothing", "paper")
"""Whose curves stand out."""


def draw(panels: Sequence[Panel]) -> str:
    """An SVG file's text, of panels whose lines are methods."""
    return svg.draw(panels, [*STRONG, *METHODS])


def losses(title: str, drawn: Mapping[str, list[Outcome]]) -> Panel:
    """Mean curves. No higher than where training began: what flies off leaves by the top."""
    high = max((outcome.first for outcomes in drawn.values() for outcome in outcomes), default=None)
    curves = {name: [outcome.losses() for outcome in outcomes] for name, outcomes in drawn.items()}
    return Panel(title, "step", "training loss", [_curve(name, each) for name, each in curves.items()], high=high)


def apart(drawn: Mapping[str, Mapping[str, list[tuple[Outcome, Outcome]]]]) -> list[Panel]:
    """How far the loss is above that of a run's twin, step by step; one scale for all panels."""
    lines = {
        title: [_curve(name, [run.above(twin) for run, twin in pairs]) for name, pairs in each.items()]
        for title, each in drawn.items()
    }
    points = [y for each in lines.values() for line in each for y in line.y if math.isfinite(y)]
    low, high = min(points, default=0.0), max(points, default=0.0)
    return [Panel(title, "step", "loss above its twin", each, low=low, high=high) for title, each in lines.items()]


def scores(
    title: str, label: str, unit: str, found: Mapping[str, Mapping[float, list[float]]], *,
    log_x: bool = False, low: float | None = None, high: float | None = None,
) -> Panel:  # fmt: skip
    """Mean score by a number. found: scores of the seeds, by method and number; the strong ones get their spread."""
    lines = []
    for method, each in found.items():
        means = [mean(seeds) for seeds in each.values()]
        seen = [high is None or at <= high for at in means]
        bands = [spread(seeds) if inside else 0.0 for inside, seeds in zip(seen, each.values(), strict=True)]
        strong = method in STRONG
        lines.append(Line(method, list(each), means, bands if strong else (), strong))
    return Panel(title, label, unit, lines, log_x=log_x, low=low, high=high)


def _curve(name: str, curves: list[list[float]]) -> Line:
    length = max(map(len, curves), default=0)
    points = [[curve[at] if at < len(curve) else math.nan for curve in curves] for at in range(length)]
    means = [statistics.fmean(each) if all(map(math.isfinite, each)) else math.nan for each in points]
    middles = [(at + 0.5) * CURVE_STEPS for at in range(length)]
    return Line(name, middles, means, strong=name in STRONG)
