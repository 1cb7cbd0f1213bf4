"""Values in words: numbers, settings, durations, half-lives, times. A missing number is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MISSING = "–"
_MOST_DECIMALS, _MOST_WHOLE_DIGITS = 5, 7


def number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits: 2.451, 0.0031, 1.23e-5; whole numbers below a million have all of theirs: 12,345."""
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}"
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0 or 1e-3 <= abs(rounded) < 10**digits:
        return f"{rounded:.{digits}g}"
    if 10**digits <= abs(rounded) < 10 ** (_MOST_WHOLE_DIGITS - 1):
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def column(values: Iterable[float | None], digits: int = 4) -> Callable[[float | None], str]:
    """How to write all numbers of a column: in one notation, with as many decimals each.

    The largest has `digits` significant digits, the smallest two at least; where that takes more than five decimals or
    seven digits before them, all have an exponent.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    sizes = [abs(value) for value in known if value]
    if not sizes or all(isinstance(value, int) for value in known):
        return lambda value: number(value, digits)
    most, least = (math.floor(math.log10(size)) for size in (max(sizes), min(sizes)))
    decimals = max(0, digits - 1 - most, 1 - least)

    def write(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return MISSING
        if decimals <= _MOST_DECIMALS and most < _MOST_WHOLE_DIGITS:
            return f"{value:,.{decimals}f}"
        mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
        return f"{mantissa}e{int(exponent)}"

    return write


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
    shown = f"{steps:.2g}" if steps < 10 else f"{steps:,.0f}"
    return f"half-life {shown} {'step' if shown == '1' else 'steps'}"


def moment(time: float, now: float, zone: str | None) -> str:
    """Unix seconds as a time of day in the visitor's time zone; with the date unless it is today."""
    place = _place(zone)
    then, today = datetime.fromtimestamp(time, place), datetime.fromtimestamp(now, place)
    return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M")


def zone_words(zone: str | None, now: float) -> str:
    """The visitor's time zone, in which `moment` tells times: `Europe/Berlin (UTC+01:00)`, or `UTC`."""
    place = _place(zone)
    offset = f"{datetime.fromtimestamp(now, place):%z}"  # such as +0100
    return (
        f"{place.key} (UTC{offset[:3]}:{offset[3:]})" if isinstance(place, ZoneInfo) and place.key != "UTC" else "UTC"
    )


def _place(zone: str | None) -> tzinfo:
    try:
        return ZoneInfo(zone) if zone else UTC
    except (ZoneInfoNotFoundError, ValueError):
        return UTC
