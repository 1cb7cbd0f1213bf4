"""A figure in words, for who cannot see it: each line's newest value and range, and how many markers of each kind."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from steadynorm_contract.words import counted
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.figure import Figure, Trace
from steadynorm_dashboard.formatting import escaping, numbers

_BAND = ", smallest to largest"
_MOST_LINES = 16


def describe(figure: Figure) -> str:
    """One sentence per line, then the markers and changes. Not escaped: it becomes a text node."""
    bands = {
        (_axis(each), _name(each).removesuffix(_BAND)): _values(each)
        for each in figure.data
        if _name(each).endswith(_BAND)
    }
    titles = _titles(figure)
    axes: dict[str, set[str]] = {}
    for trace in figure.data:
        axes.setdefault(_name(trace), set()).add(_axis(trace))
    said: list[str] = []
    for trace in figure.data:
        if trace["type"] == "heatmap":
            said.append(_map(trace))
        elif trace["type"] != "scatter" or _name(trace).endswith(_BAND):
            continue
        elif trace.get("mode") == "markers" and trace.get("marker", {}).get("symbol"):
            said += [f"{len(trace['x']):,} marked: {_name(trace) or 'not finite'}."] if trace["x"] else []
        else:
            panel = titles.get(_axis(trace), "") if len(axes[_name(trace)]) > 1 else ""
            said += [f"{panel}{words}" for words in _line(trace, bands.get((_axis(trace), _name(trace)), []))]
    lines = said[:_MOST_LINES] + ([f"{len(said) - _MOST_LINES} more."] if len(said) > _MOST_LINES else [])
    changes = sum(
        str(note.get("name", "")).startswith(f"{markers.CHANGE}:") for note in figure.layout.get("annotations", [])
    )
    if changes:
        lines.append(f"{counted(changes, 'change')} of settings.")
    return " ".join(lines)


def _axis(trace: Trace) -> str:
    return str(trace.get("yaxis") or "y")


def _titles(figure: Figure) -> dict[str, str]:
    """The bold words of each panel's title, by its y axis. `panels.layout` writes the titles first, in their order."""
    found = [re.match(r"<b>(.*?)</b>", str(note.get("text", ""))) for note in figure.layout.get("annotations", [])]
    words = [f"{html.unescape(match[1])}, " for match in found if match]
    return {f"y{at}" if at > 1 else "y": each for at, each in enumerate(words, 1)}


def _name(trace: Trace) -> str:
    return escaping.visible(html.unescape(str(trace.get("name") or "")), 100)


def _values(trace: Trace) -> list[float]:
    return [value for value in trace.get("y", ()) if value is not None]


def _line(trace: Trace, extremes: Sequence[float]) -> list[str]:
    values = _values(trace)
    if not values:
        return []
    whole = [*values, *extremes]
    low, high = numbers.number(min(whole)), numbers.number(max(whole))
    return [f"{_name(trace)}: newest {numbers.number(values[-1])}, between {low} and {high}."]


def _map(trace: Trace) -> str:
    """The cell with the largest value; its hover text names parameter, value and step."""
    rows: Iterable[Sequence[float | None]] = trace["z"]
    cells = [(value, y, x) for y, row in enumerate(rows) for x, value in enumerate(row) if value is not None]
    if not cells:
        return f"{counted(len(trace['z']), 'row')} without a value."
    _, y, x = max(cells)
    text: list[list[Any]] = trace["text"]
    words = escaping.visible(html.unescape(str(text[y][x]).replace("<br>", ": ")), 300)
    return f"{counted(len(trace['z']), 'row')}. Largest: {words}."
