"""The x axis of charts: optimizer steps, the time since the run started, or clock time in the visitor's time zone.

The times of steps come from a run's own series: `Axis.of(kind, series, started)`, interpolated between buckets.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from steadynorm_contract.series import Series

X = int | float | str


class XAxis(enum.StrEnum):
    """What an x axis shows."""

    STEP = "step"
    ELAPSED = "elapsed"
    CLOCK = "clock"


_UNITS = (("s", 1.0, 300.0), ("min", 60.0, 5 * 3600.0), ("h", 3600.0, 4 * 86400.0), ("days", 86400.0, float("inf")))


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit that suits a span of `seconds`, and its length in seconds."""
    return next((name, size) for name, size, longest in _UNITS if seconds < longest)


@dataclass(frozen=True, slots=True)
class Axis:
    """Converts steps to positions on the axis and back.

    steps, times: the known points in step order; times are Unix seconds and never decrease.
    started: Unix seconds at which the run started; elapsed time counts from there.
    """

    kind: XAxis = XAxis.STEP
    steps: Sequence[int] = ()
    times: Sequence[float] = ()
    started: float = 0.0
    unit: tuple[str, float] = ("s", 1.0)
    zone: tzinfo = UTC
    log: bool = False  # never of clock time

    @classmethod
    def of(
        cls,
        kind: XAxis,
        series: Iterable[Series],
        started: float = 0.0,
        zone: str | None = None,
        *,
        unit: tuple[str, float] | None = None,
        known: Axis | None = None,
        log: bool = False,
    ) -> Axis:
        """An axis for `series`; by step where they have no times.

        unit: of elapsed time, where several runs share the axis; None: what suits this one.
        known: an axis over more of the run than `series`, so that steps beyond them can be converted too.
        log: logarithmic, except of clock time. What lies before the first step or second is drawn there.
        """
        time_of = dict(zip(known.steps, known.times, strict=True)) if known else {}
        for one in series:
            time_of.update(zip(one.step, one.time, strict=False))
        steps = sorted(time_of)
        # A run that went back to a checkpoint has older steps with newer times.
        times = list(accumulate((time_of[step] for step in steps), max))
        log = log and kind is not XAxis.CLOCK
        if not steps:
            return cls(log=log and kind is XAxis.STEP)
        return cls(kind, steps, times, started, unit or unit_of(times[-1] - started), _zone(zone), log)

    def x(self, step: float) -> X:
        """The position of `step`, in the form that plotly expects."""
        if self.kind is XAxis.STEP:
            step = max(1, step) if self.log else step
            return int(step) if step == int(step) else step
        time = self._time(step)
        if self.kind is XAxis.ELAPSED:
            elapsed = max(1.0, time - self.started) if self.log else time - self.started
            return elapsed / self.unit[1]
        return datetime.fromtimestamp(time, self.zone).replace(tzinfo=None).isoformat(" ", "milliseconds")

    def xs(self, steps: Iterable[int]) -> list[X]:
        """The positions of `steps`."""
        if self.kind is XAxis.STEP and not self.log:
            return list(steps)
        return [self.x(step) for step in steps]

    def note_x(self, step: float) -> X:
        """The position of `step` for an annotation, of which plotly expects the logarithm."""
        return math.log10(float(self.x(step))) if self.log else self.x(step)

    def step_at(self, x: X) -> float:
        """The step at an end of plotly's range. Raises ValueError if it is not a position on this axis."""
        if self.log:
            x = 10.0 ** float(x)
        if self.kind is XAxis.STEP:
            return float(x)
        if self.kind is XAxis.ELAPSED:
            time = self.started + float(x) * self.unit[1]
        else:
            time = datetime.fromisoformat(str(x)).replace(tzinfo=self.zone).timestamp()
        return _interpolated(time, self.times, self.steps)

    def share(self, step: float, first: float, last: float) -> float:
        """The position of `step` between `first` (0) and `last` (1) on this axis."""
        if self.log:
            step, first, last = (math.log(float(self.x(each))) for each in (step, first, last))
        elif self.kind is not XAxis.STEP:
            step, first, last = self._time(step), self._time(first), self._time(last)
        return (step - first) / (last - first) if last > first else 0.0

    def layout(self, first: float | None = None, last: float | None = None) -> dict[str, Any]:
        """Plotly's properties of the axis. first, last: it ends at these steps, without room for markers beyond."""
        common: dict[str, Any] = {"zeroline": False}
        if self.log:
            common |= {"type": "log", "nticks": 8}
        scale = ", log scale" if self.log else ""
        if first is not None and last is not None:
            # Not `range`: a new value of it would reset the visitor's zoom.
            common["autorangeoptions"] = {"clipmin": self.x(first), "clipmax": self.x(max(last, first + 1))}
        match self.kind:
            case XAxis.STEP:
                return common | {
                    "title": {"text": f"optimizer step{scale}"},
                    "tickformat": ",d",
                    "unifiedhovertitle": {"text": "step %{x:,d}"},
                }
            case XAxis.ELAPSED:
                return common | {
                    "title": {"text": f"time since the run started ({self.unit[0]}{scale})"},
                    **({"tickformat": "~g"} if self.log else {}),
                    "unifiedhovertitle": {"text": f"%{{x:.4g}} {self.unit[0]}"},
                }
            case XAxis.CLOCK:
                return common | {
                    "title": {"text": f"time ({self.zone})"},
                    "type": "date",
                    "unifiedhovertitle": {"text": "%{x|%Y-%m-%d %H:%M:%S}"},
                }

    def _time(self, step: float) -> float:
        return _interpolated(step, self.steps, self.times)


def _zone(name: str | None) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def _interpolated(at: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Linear between the points (xs, ys); beyond them extrapolated with the slope between first and last."""
    if len(xs) < 2 or xs[-1] <= xs[0]:
        return float(ys[0]) if at <= xs[0] else float(ys[-1])
    if at < xs[0] or at > xs[-1]:
        slope = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
        edge = 0 if at < xs[0] else -1
        return ys[edge] + (at - xs[edge]) * slope
    right = min(bisect_right(xs, at), len(xs) - 1)
    left = right - 1
    width = xs[right] - xs[left]
    share = (at - xs[left]) / width if width else 0.0
    return ys[left] + share * (ys[right] - ys[left])
