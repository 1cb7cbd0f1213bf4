"""The charts of logged scalars are figures that plotly takes, whatever the names."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from steadynorm_contract.scalars import ScalarView
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts.axis import Axis
from steadynorm_dashboard.charts.comparison import ComparedRun
from steadynorm_dashboard.charts.figure import Figure
from steadynorm_dashboard.charts.scalars import compared_figure, grouped, scalars_figure, series_names

HOSTILE = "<a href=x>&y</a>"


def series(*points: tuple[int, float | None]) -> Series:
    values = [value for _, value in points]
    steps = [step for step, _ in points]
    return Series(steps, [2] * len(steps), values, values, values, [float(step) for step in steps])


def checked(figure: Figure | None) -> Any:
    assert figure is not None
    return go.Figure(figure.data, figure.layout)


def test_names_are_grouped_by_what_is_before_the_last_slash() -> None:
    assert grouped(["a", "x/y/b", "x/c", "d", "x/y/e"]) == {"": ["a", "d"], "x/y": ["x/y/b", "x/y/e"], "x": ["x/c"]}


def test_each_scalar_with_values_has_a_panel_and_each_nan_a_cross() -> None:
    scalars = [
        ScalarView(name=HOSTILE, unit="<i>", value=1.0, step=9, nonfinite=2),
        ScalarView(name="eval/loss", value=1.0, step=9),
        ScalarView(name="never"),
    ]
    known = {each.name: each for each in scalars}
    assert series_names([HOSTILE, "never"], known) == [HOSTILE, "never", f"nonfinite/{HOSTILE}"]
    recorded = {
        HOSTILE: series((1, 2.0), (5, 3.0), (9, 1.0)),
        f"nonfinite/{HOSTILE}": series((1, 0.0), (4, 1.0), (9, 0.0)),
        "eval/loss": series((9, 0.5)),
        "never": series(),
    }
    figure = checked(scalars_figure(recorded, scalars, revision="r"))
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["<b>&lt;a href=x&gt;&amp;y&lt;/a&gt;</b> &lt;i&gt;", "<b>eval/loss</b> "]
    (cross,) = [trace for trace in figure.data if trace.marker.symbol == "x"]
    assert (list(cross.x), list(cross.y)) == ([4], [2.0])
    lows = [figure.layout[axis].domain for axis in ("yaxis", "yaxis2")]
    assert lows[0][0] > lows[1][1] > lows[1][0] == 0
    assert scalars_figure(recorded, scalars[2:], revision="r") is None


def test_compared_runs_share_a_panel_for_each_name_that_one_of_them_logs() -> None:
    runs = [
        ComparedRun("<b>one</b>", 0.0, {"kl": series((1, 1.0), (2, 2.0))}),
        ComparedRun("two", 0.0, {"kl": series((1, 3.0), (2, 1.0)), "own": series((2, 1.0))}),
        ComparedRun("three", 0.0, {}),
    ]
    figure = checked(compared_figure(runs, [Axis()] * 3, ["kl", "own", "nobody"], revision="r"))
    lines = [(trace.name, trace.yaxis) for trace in figure.data if trace.line.width]
    assert lines == [("&lt;b&gt;one&lt;/b&gt;", "y"), ("two", "y"), ("two", "y2")]
    assert compared_figure(runs, [Axis()] * 3, ["nobody"], revision="r") is None
