"""Which figures look the same: those whose places differ by less than any screen shows, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from steadynorm_dashboard.charts.figure import Figure
from steadynorm_dashboard.charts.resemblance import looks_same


def figure(
    ys: list[float | None], *, end: float = 1_000_000, second: float = 3.0, third: float = 100.0, **layout: object
) -> Figure:
    """A line that spans 2, one on a logarithmic axis that spans two decades, and a map, over a million steps."""
    return Figure(
        [
            {"type": "scatter", "name": "loss", "x": [0, 500_000, end], "y": ys, "text": ["", "", "spike"]},
            {"type": "scatter", "name": "norm", "yaxis": "y2", "x": [0, 500_000], "y": [1.0, third]},
            {"type": "scatter", "name": "rate", "yaxis": "y2", "x": [0], "y": [second]},
            {"type": "heatmap", "z": [[1.0, 2.0]]},
        ],
        {
            "height": 900,
            "xaxis": {"autorangeoptions": {"clipmin": 0, "clipmax": end}},
            "yaxis": {},
            "yaxis2": {"type": "log"},
            **layout,
        },
    )


NOW = figure([1.0, None, 3.0])


def with_trace(at: int, **changes: Any) -> Figure:
    changed = copy.deepcopy(NOW)
    changed.data[at] |= changes
    return changed


MOVED: dict[str, tuple[Figure, bool]] = {
    "nothing": (NOW, True),
    "ten steps of a million": (figure([1.0, None, 3.0], end=1_000_010), True),
    "many steps": (figure([1.0, None, 3.0], end=1_000_400), False),
    "a value by less than a pixel": (figure([1.0, None, 3.0009]), True),
    "a value by a pixel": (figure([1.0, None, 3.004]), False),
    "the logarithm by less than a pixel": (figure([1.0, None, 3.0], third=100.2), True),
    "the logarithm by a pixel": (figure([1.0, None, 3.0], third=101.0), False),
    "a small value on that axis": (figure([1.0, None, 3.0], second=3.03), False),
    "a gap that is filled": (figure([1.0, 2.0, 3.0]), False),
    "a gap that opens": (figure([1.0, None, None]), False),
    "one point more": (with_trace(2, x=[0, 1], y=[3.0, 3.0]), False),
    "a marker's words": (with_trace(0, text=["", "", "spike ×12"]), False),
    "a name": (with_trace(0, name="other"), False),
    "a cell": (with_trace(3, z=[[1.0, 2.001]]), False),
    "a mark of a change": (figure([1.0, None, 3.0], shapes=[{"x0": 2}]), False),
    "one trace less": (Figure(NOW.data[:3], NOW.layout), False),
    "the axis' unit": (figure([1.0, None, 3.0], xaxis={"title": "h", **NOW.layout["xaxis"]}), False),
}


@pytest.mark.parametrize("moved", MOVED)
def test_a_figure_looks_the_same_where_nothing_moves_by_a_pixel(moved: str) -> None:
    newer, same = MOVED[moved]
    assert looks_same(NOW, newer) is same


@pytest.mark.parametrize(("end", "same"), [("2026-01-01 10:00:00.500", True), ("2026-01-01 10:00:10.000", False)])
def test_a_clocks_axis_is_measured_in_time(end: str, same: bool) -> None:
    def over(end: str) -> Figure:
        axis = {"type": "date", "autorangeoptions": {"clipmin": "2026-01-01 00:00:00.000", "clipmax": end}}
        x = ["2026-01-01 00:00:00.000", end]
        return Figure([{"type": "scatter", "x": x, "y": [1.0, 2.0]}], {"height": 900, "xaxis": axis})

    assert looks_same(over("2026-01-01 10:00:00.000"), over(end)) is same


def test_a_line_that_is_level_has_no_room_to_move() -> None:
    def level(at: float) -> Figure:
        return Figure([{"type": "scatter", "x": [0, 1], "y": [at, at]}], {"height": 900})

    assert looks_same(level(1.0), level(1.0))
    assert not looks_same(level(1.0), level(1.0001))
