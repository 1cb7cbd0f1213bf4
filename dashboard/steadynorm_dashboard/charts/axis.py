"""What runs from left to right: optimizer steps, the time since the run began, or the visitor's clock. Pure.

A run's own series say when each step was: `Axis.of(along, series, began)`. Between two buckets time is interpolated.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from steadynorm_contract.series import Series

__all__ = ["Axis", "XAxis", "unit_of"]

X = int | float | str


class XAxis(enum.StrEnum):
    """What the axis measures."""

    STEP = "step"
    ELAPSED = "elapsed"
    CLOCK = "clock"


_UNITS = (("s", 1.0, 300.0), ("min", 60.0, 5 * 3600.0), ("h", 3600.0, 4 * 86400.0), ("days", 86400.0, float("inf")))


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit in which a span of `seconds` is read best, and its seconds."""
    return next((name, size) for name, size, longest in _UNITS if seconds < longest)


@dataclass(frozen=True, slots=True)
class Axis:
    """From steps to places on the axis, and back.

    steps, times: what is known, in step order; times are Unix seconds and never fall.
    began: Unix seconds of the run's begin, from which elapsed time counts.
    """

    along: XAxis = XAxis.STEP
    steps: Sequence[int] = ()
    times: Sequence[float] = ()
    began: float = 0.0
    unit: tuple[str, float] = ("s", 1.0)
    zone: tzinfo = UTC

    @classmethod
    def of(
        cls,
        along: XAxis,
        series: Iterable[Series],
        began: float = 0.0,
        zone: str | None = None,
        *,
        unit: tuple[str, float] | None = None,
        known: Axis | None = None,
    ) -> Axis:
        """An axis for `series`; by step where they tell no times.

        unit: of elapsed time, where several runs share the axis; None: what suits this one.
        known: an axis of more of the run than `series`, which is to be told apart beyond them too.
        """
        moments = dict(zip(known.steps, known.times, strict=True)) if known else {}
        for one in series:
            moments.update(zip(one.step, one.time, strict=False))
        steps = sorted(moments)
        # A run that went back to a checkpoint has older steps with newer times.
        times = list(accumulate((moments[step] for step in steps), max))
        if not steps:
            return cls()
        return cls(along, steps, times, began, unit or unit_of(times[-1] - began), _zone(zone))

    def x(self, step: float) -> X:
        """Where `step` stands, as plotly takes it."""
        if self.along is XAxis.STEP:
            return int(step) if step == int(step) else step
        time = self._time(step)
        return self._place(time)

    def xs(self, steps: Iterable[int]) -> list[X]:
        """Where each of `steps` stands."""
        if self.along is XAxis.STEP:
            return list(steps)
        return [self.x(step) for step in steps]

    def step_at(self, x: X) -> float:
        """The step at a place that plotly named. Raises ValueError for what is no place on this axis."""
        if self.along is XAxis.STEP:
            return float(x)
        if self.along is XAxis.ELAPSED:
            time = self.began + float(x) * self.unit[1]
        else:
            time = datetime.fromisoformat(str(x)).replace(tzinfo=self.zone).timestamp()
        return _between(time, self.times, self.steps)

    def share(self, step: float, first: float, last: float) -> float:
        """How far `step` is from `first` to `last` on this axis, 0 to 1 within."""
        if self.along is not XAxis.STEP:
            step, first, last = self._time(step), self._time(first), self._time(last)
        return (step - first) / (last - first) if last > first else 0.0

    def layout(self, first: float | None = None, last: float | None = None) -> dict[str, Any]:
        """Plotly's description of the axis. first, last: steps beyond which no room is left for markers."""
        look: dict[str, Any] = {"zeroline": False, "showspikes": False}
        if first is not None and last is not None:
            # Not `range`: a new value of it would undo the visitor's zoom.
            look["autorangeoptions"] = {"clipmin": self.x(first), "clipmax": self.x(max(last, first + 1))}
        match self.along:
            case XAxis.STEP:
                return look | {
                    "title": {"text": "optimizer step"},
                    "tickformat": ",d",
                    "unifiedhovertitle": {"text": "step %{x:,d}"},
                }
            case XAxis.ELAPSED:
                return look | {
                    "title": {"text": f"time since the run began ({self.unit[0]})"},
                    "unifiedhovertitle": {"text": f"%{{x:.4g}} {self.unit[0]}"},
                }
            case XAxis.CLOCK:
                return look | {
                    "title": {"text": f"time ({self.zone})"},
                    "type": "date",
                    "unifiedhovertitle": {"text": "%{x|%Y-%m-%d %H:%M:%S}"},
                }

    def _time(self, step: float) -> float:
        return _between(step, self.steps, self.times)

    def _place(self, time: float) -> X:
        if self.along is XAxis.ELAPSED:
            return (time - self.began) / self.unit[1]
        return datetime.fromtimestamp(time, self.zone).replace(tzinfo=None).isoformat(" ", "milliseconds")


def _zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _between(at: float, known: Sequence[float], wanted: Sequence[float]) -> float:
    """Linear between the known points; beyond them on at the pace between first and last."""
    if len(known) < 2 or known[-1] <= known[0]:
        return float(wanted[0]) if at <= known[0] else float(wanted[-1])
    if at < known[0] or at > known[-1]:
        pace = (wanted[-1] - wanted[0]) / (known[-1] - known[0])
        edge = 0 if at < known[0] else -1
        return wanted[edge] + (at - known[edge]) * pace
    right = min(bisect_right(known, at), len(known) - 1)
    left = right - 1
    width = known[right] - known[left]
    share = (at - known[left]) / width if width else 0.0
    return wanted[left] + share * (wanted[right] - wanted[left])
