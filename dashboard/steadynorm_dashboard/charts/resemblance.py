"""Whether a newer figure looks like one before: all of it is the same but for places that no screen tells apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from steadynorm_dashboard.charts.figure import Figure, Trace

_UNSEEN = {"x": 1 / 4000, "y": 1 / 2000}
"""Shares of an axis: less than half a pixel where charts are up to 2,000 px wide and panels up to 1,000 px high."""
_PLACES = ("x", "y")


def looks_same(before: Figure, now: Figure) -> bool:
    """Whether nobody could tell the two by sight. Words, names and the number of points must be the same."""
    if [_words(trace) for trace in before.data] != [_words(trace) for trace in now.data]:
        return False
    if _without_ends(before.layout) != _without_ends(now.layout):
        return False
    spans = _spans(before)
    pairs = [*zip(before.data, now.data, strict=True)]
    return all(
        _near(was[letter], new[letter], _is_log(before, _axis(letter, was)), spans[_span_key(letter, was)] * unseen)
        for was, new in pairs
        for letter, unseen in _UNSEEN.items()
        if _has_places(was)
    ) and all(
        _near(was, new, before.layout[name].get("type") == "log", spans["x"] * _UNSEEN["x"])
        for name, was in _ends(before.layout).items()
        for new in (_ends(now.layout)[name],)
    )


def _has_places(trace: Trace) -> bool:
    return bool(trace["type"] == "scatter")


def _words(trace: Trace) -> Trace:
    """All of a trace but the places of its points, of which there is the number."""
    if not _has_places(trace):
        return trace
    return {name: len(value) if name in _PLACES else value for name, value in trace.items()}


def _ends(layout: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Of the x axes: where they end, which grows with each step."""
    return {
        name: [axis["autorangeoptions"]["clipmin"], axis["autorangeoptions"]["clipmax"]]
        for name, axis in layout.items()
        if isinstance(axis, dict) and "autorangeoptions" in axis
    }


def _without_ends(layout: Mapping[str, Any]) -> dict[str, Any]:
    ends = _ends(layout)
    return {name: {**value, "autorangeoptions": None} if name in ends else value for name, value in layout.items()}


def _axis(letter: str, trace: Trace) -> str:
    return f"{letter}axis{trace.get(f'{letter}axis', letter)[1:]}"


def _span_key(letter: str, trace: Trace) -> str:
    return "x" if letter == "x" else _axis("y", trace)  # all x axes show the same


def _is_log(figure: Figure, axis: str) -> bool:
    return bool(figure.layout.get(axis, {}).get("type") == "log")


def _spans(figure: Figure) -> dict[str, float]:
    """The distance between the smallest and the largest place on each axis, in its own measure."""
    found: dict[str, list[float]] = {"x": []}
    for trace in filter(_has_places, figure.data):
        for letter in _PLACES:
            log = _is_log(figure, _axis(letter, trace))
            found.setdefault(_span_key(letter, trace), []).extend(_places(trace[letter], log))
    return {name: max(places) - min(places) if places else 0.0 for name, places in found.items()}


def _places(values: Sequence[Any], log: bool) -> Iterator[float]:
    return (place for value in values if (place := _place(value, log)) is not None)


def _place(value: Any, log: bool) -> float | None:
    """Where it is on its axis; None: nowhere, it is a gap."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).timestamp()
    if value is None or not math.isfinite(value) or (log and value <= 0):
        return None
    return math.log10(value) if log else float(value)


def _near(before: Sequence[Any], now: Sequence[Any], log: bool, unseen: float) -> bool:
    if before == now:
        return True
    for was, new in zip(before, now, strict=True):
        if was == new:
            continue
        place, moved = _place(was, log), _place(new, log)
        if place is None or moved is None:
            if place is not moved:
                return False
        elif abs(moved - place) > unseen:
            return False
    return True
