"""Line charts as small SVG files: readable in light and dark, with no library to draw them."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

__all__ = ["COLORS", "Line", "Panel", "draw"]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#b2a000")
"""Six of Okabe and Ito's, which colour-blind people can tell apart, a grey and an olive."""
_WIDTH, _HEIGHT, _COLUMNS = 300, 220, 3
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 28, 40
_SHORT = 20
"""Characters of a name that leave room for two beside each other below a panel."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve. spread: half the height of the band around it, point by point. What is not finite is left out.

    strong: drawn thicker and above the others.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart of a picture. low, high: limits of the y axis, which curves may leave; None: of what is drawn."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    low: float | None = None
    high: float | None = None


def draw(panels: Sequence[Panel], known: Sequence[str] = ()) -> str:
    """All panels in rows of three, with one legend below.

    known: names in the order of their colours, so that each has the same one in all pictures; others come after them.
    """
    drawn = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    order = list(dict.fromkeys([*known, *drawn]))
    names = {name: order.index(name) for name in sorted(drawn, key=order.index)}
    columns = min(_COLUMNS, len(panels)) or 1
    rows = math.ceil(len(panels) / columns)
    wide = any(len(name) > _SHORT for name in names)
    width, beside = columns * _WIDTH, columns if wide else 2 * columns
    legend_rows = math.ceil(len(names) / beside)
    height = rows * _HEIGHT + 18 * legend_rows + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        "<style>svg{background:#fff;color:#222}@media(prefers-color-scheme:dark){svg{background:#111;color:#ddd}}"
        "text{fill:currentColor}.a{stroke:currentColor;stroke-opacity:.25;fill:none}</style>",
        f'<clipPath id="plot"><rect x="{_LEFT - 3}" y="{_TOP - 3}" width="{_WIDTH - _LEFT - _RIGHT + 6}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM + 6}"/></clipPath>',
    ]
    for index, panel in enumerate(panels):
        place = (index % columns * _WIDTH, index // columns * _HEIGHT)
        parts.append(f'<g transform="translate({place[0]} {place[1]})">')
        parts += _panel(panel, names)
        parts.append("</g>")
    for at, (name, index) in enumerate(names.items()):
        x, y = 12 + at % beside * width // beside, rows * _HEIGHT + 14 + at // beside * 18
        parts.append(f'<path d="M{x} {y - 4}h20" stroke="{_color(index)}" stroke-width="2.5" {_dash(index)}/>')
        parts.append(f'<text x="{x + 26}" y="{y}">{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, names: dict[str, int]) -> list[str]:
    points = [(x, y) for line in panel.lines for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    title = f'<text x="{_LEFT}" y="16" font-weight="bold">{html.escape(panel.title)}</text>'
    if not points:
        return [title, f'<text x="{_LEFT}" y="60">no run reached a number</text>']
    xs, ys = [_scaled(x, panel.log_x) for x, _ in points], [y for _, y in points]
    for line in panel.lines:
        around = zip(line.y, line.spread, strict=bool(line.spread))
        ys += [y + side * half for y, half in around if math.isfinite(y) for side in (-1, 1)]
    left, right = min(xs), max(xs)
    low = min(ys) if panel.low is None else panel.low
    high = max(ys) if panel.high is None else panel.high
    right, high = (right if right > left else left + 1), (high if high > low else low + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (_scaled(x, panel.log_x) - left) / (right - left)
        up = min(max((y - low) / (high - low), -9.0), 9.0)  # out of sight, and short to write
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [title]
    for tick in _ticks(low, high):
        y = at(points[0][0], tick)[1]
        parts.append(f'<path class="a" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for value in _x_ticks(sorted({x for x, _ in points}), panel.log_x):
        x = at(value, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{value:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{html.escape(panel.x_label)}</text>')
    parts.append(
        f'<text transform="translate(11 {_HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(panel.y_label)}</text>"
    )
    parts.append('<g clip-path="url(#plot)">')
    for line in sorted(panel.lines, key=lambda line: line.strong):
        parts += _line(line, names[line.name], at)
    return [*parts, "</g>"]


def _line(line: Line, index: int, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """In pieces: a point that is missing is a gap, not a bridge."""
    width = 2.4 if line.strong else 1.4
    parts = []
    for finite, piece in groupby(range(len(line.y)), key=lambda place: math.isfinite(line.y[place])):
        shown = list(piece)
        if not finite:
            continue
        if line.spread:
            upper = [at(line.x[place], line.y[place] + line.spread[place]) for place in shown]
            lower = [at(line.x[place], line.y[place] - line.spread[place]) for place in reversed(shown)]
            parts.append(f'<path d="{_path([*upper, *lower])}Z" fill="{_color(index)}" fill-opacity=".12"/>')
        places = [at(line.x[place], line.y[place]) for place in shown]
        parts.append(
            f'<path d="{_path(places)}" fill="none" stroke="{_color(index)}" stroke-width="{width}" {_dash(index)}/>'
        )
        if len(line.y) <= 12:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 0.6}" fill="{_color(index)}"/>' for x, y in places
            ]
    return parts


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _dash(index: int) -> str:
    return 'stroke-dasharray="5 3"' if index >= len(COLORS) else ""


def _scaled(x: float, log: bool) -> float:
    return math.log10(x) if log else x


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5) if (high - low) / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, int(high / step + 1e-9) + 1)]


def _x_ticks(values: list[float], log: bool) -> list[float]:
    if log:
        decades = [value for value in values if abs(math.log10(value) - round(math.log10(value))) < 0.01]
        return decades or values[:: max(1, len(values) // 4)]
    if len(values) > 5:
        return _ticks(values[0], values[-1])
    shown: list[float] = []
    for value in values:  # each whose label has room beside the one before
        if not shown or value - shown[-1] > 0.09 * (values[-1] - values[0]):
            shown.append(value)
    return shown
