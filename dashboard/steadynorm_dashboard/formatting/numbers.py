"""Values in words: numbers, settings, durations, half-lives, times. A missing number is a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MISSING = "–"


def number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits: 2.451, 0.0031, 1.23e-5. A count has all of its digits: 1,204,331."""
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}"
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0 or 1e-3 <= abs(rounded) < 10**digits:
        return f"{rounded:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def setting(value: object) -> str:
    """A setting's value, not rounded: a decay near 1 needs all of its digits."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """4 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 86400:.3g} d"


def half_life(gamma: float) -> str:
    """After how many steps a sample has half its weight: ln(1/2) / ln(gamma)."""
    if not 0 < gamma < 1:
        return "newest step only" if gamma == 0 else MISSING
    steps = math.log(0.5) / math.log(gamma)
    if steps < 10:
        return f"half-life {steps:.2g} steps"
    return f"half-life {steps:,.0f} steps"


def moment(time: float, now: float, zone: str | None) -> str:
    """Unix seconds as a time of day in the visitor's time zone; with the date unless it is today."""
    try:
        place = ZoneInfo(zone) if zone else UTC
    except (ZoneInfoNotFoundError, ValueError):
        place = UTC
    then, today = datetime.fromtimestamp(time, place), datetime.fromtimestamp(now, place)
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M")
