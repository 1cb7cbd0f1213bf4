"""Rows of the heat map, who went first in an incident, and the figures of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import pytest

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.series import Heatmap, Series
from steadynorm_dashboard.charts import heatmap, incident_analysis, parameter, run
from steadynorm_dashboard.charts.axis import Axis, XAxis
from steadynorm_dashboard.charts.incident import incident_figure
from steadynorm_dashboard.charts.layers import MAX_ROWS, block_of, blocks, layers, worst_rows
from steadynorm_dashboard.charts.panels import MAP_LEFT_PX

PARTS = ("attention.q", "attention.k", "attention.v", "attention.out", "mlp.up", "mlp.down")
LARGE = ["embedding.weight", *(f"blocks.{at}.{part}.weight" for at in range(48) for part in PARTS), "head.weight"]


def matrix(extreme: Sequence[Sequence[float | None]], names: Sequence[str], signal: str = "spike_ratio") -> Heatmap:
    steps = list(range(100, 100 + len(extreme[0])))
    return Heatmap(signal, list(names), steps, [1] * len(steps), [0.0] * len(steps), [list(row) for row in extreme])


def drawn(figure: Any) -> dict[str, Any]:
    assert figure is not None
    found: dict[str, Any] = json.loads(figure.to_json())
    go.Figure(found)  # raises on what plotly does not know
    return found


def test_few_parameters_have_a_row_each_and_many_share_one_with_their_block() -> None:
    assert [row.name for row in layers(LARGE[:20])] == LARGE[:20]
    rows = layers(LARGE)
    assert len(rows) == 50 <= MAX_ROWS
    assert [row.name for row in rows[:3]] == ["embedding.weight", "blocks.0", "blocks.1"]
    assert [at for row in rows for at in row.members] == list(range(len(LARGE)))
    assert [block.name for block in blocks(LARGE)] == [row.name for row in rows]


def test_names_that_tell_nothing_of_blocks_are_shared_out_evenly() -> None:
    for names in ([f"p{at}" for at in range(1000)], [f"net.{at}" for at in range(1000)]):
        rows = layers(names)
        assert len(rows) <= MAX_ROWS
        assert [at for row in rows for at in row.members] == list(range(1000))


def test_a_block_is_the_name_up_to_its_number() -> None:
    assert block_of("model.layers.11.mlp.up.weight") == "model.layers.11"
    assert block_of("head.weight") == "head"


def test_a_shared_row_shows_its_worst_member_and_says_which() -> None:
    extreme: list[list[float | None]] = [[1.0, 1.0, None] for _ in LARGE]
    culprit = LARGE.index("blocks.7.mlp.up.weight")
    extreme[culprit][1] = 40.0
    rows = layers(LARGE)
    values, holders = worst_rows(rows, extreme)
    (row,) = [at for at, each in enumerate(values) if each[1] == 40.0]
    assert rows[row].name == "blocks.7"
    assert holders[row][1] == culprit
    assert values[row][2] is None

    figure = drawn(heatmap.heatmap_figure(matrix(extreme, LARGE), revision="r"))
    assert figure["data"][0]["customdata"][row][1] == "blocks.7.mlp.up.weight"
    assert "blocks.7 (6)" in figure["layout"]["yaxis"]["ticktext"]
    assert figure["layout"]["xaxis"]["title"]["text"] == "optimizer step"


def test_one_block_alone_shows_its_parameters() -> None:
    figure = drawn(heatmap.heatmap_figure(matrix([[1.0]] * len(LARGE), LARGE), revision="r", block="blocks.7"))
    shown = [f"blocks.7.{part}" for part in PARTS]
    shown[3] = "…cks.7.attention.out"  # as much as fits of what distinguishes the rows
    assert figure["layout"]["yaxis"]["ticktext"] == shown


def test_the_map_is_on_the_axis_of_the_charts_and_follows_their_zoom() -> None:
    heat = matrix([[1.0, 2.0, 3.0]], ["a"])
    axis = Axis(XAxis.ELAPSED, heat.step, [0.0, 5.0, 10.0])
    figure = drawn(heatmap.heatmap_figure(heat, revision="r", x_axis=axis))
    assert figure["data"][0]["x"][1] == pytest.approx(axis.x(heat.step[1] - 0.5))
    assert figure["layout"]["xaxis"]["title"]["text"].startswith("time since the run started")
    assert figure["layout"]["xaxis"]["fixedrange"]
    charts = run.run_figure(
        {"loss": Series([0, 1], [1, 1], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0])}, [], [], revision="r", left_px=MAP_LEFT_PX
    )
    assert charts is not None
    margins = [{side: of["margin"][side] for side in "lr"} for of in (figure["layout"], charts.layout)]
    assert margins[0] == margins[1]


def test_a_name_that_would_be_markup_is_drawn_as_it_is_written() -> None:
    evil = "<img src=x onerror=alert(1)>"
    event = Event(id="1", kind=EventKind.NONFINITE, step=100, time=0.0, message="", parameter=evil, value=1.0)
    figure = drawn(heatmap.heatmap_figure(matrix([[None, 2.0]], [evil]), [event], revision="r"))
    assert len(figure["data"]) == 2
    words = [figure["data"][0]["text"][0][0], figure["data"][1]["text"][0]]
    (label,) = figure["layout"]["yaxis"]["ticktext"]
    assert label == "…x onerror=alert(1)&gt;"
    assert all("<img" not in each and "&lt;img" in each for each in words)


def test_without_rows_there_is_no_map() -> None:
    assert heatmap.heatmap_figure(Heatmap("raw_norm", ["a"], [], [], [], [[]]), revision="r") is None


NAMES = ["calm", "second", "culprit", "poisoned"]
NORMS: list[list[float | None]] = [[1, 1, 1, 1, 1], [1, 1, 1, 40, 1], [2, 2, 99, 30, 3], [1, 1, 1, None, 1]]
RATIOS: list[list[float | None]] = [[1, 1, 1, 1, 1], [1, 1, 1, 40, 1], [1, 1, 50, 11, 1], [1, 1, 1, 0, 1]]
TARGETS: list[list[float | None]] = [[1.0] * 5, [1.0] * 5, [1, 1, 3, 2, 0.1], [1.0] * 5]


def test_who_went_first_stands_first_and_of_one_step_the_worst() -> None:
    bad = incident_analysis.affected_parameters(
        matrix(NORMS, NAMES, "raw_norm"), matrix(RATIOS, NAMES), matrix(TARGETS, NAMES, "target")
    )
    assert [(one.name, one.step, one.nonfinite) for one in bad] == [
        ("culprit", 102, False),
        ("poisoned", 103, True),
        ("second", 103, False),
    ]
    assert (bad[0].before, bad[0].peak, bad[0].after) == (2, 99, 3)
    assert (bad[0].ratio, bad[0].lowest_target, bad[0].bad_steps) == (50, 0.1, 2)
    assert [row["from the event"] for row in incident_analysis.affected_rows(bad, 102)] == ["same step", "+1", "+1"]
    assert [row["order"] for row in incident_analysis.affected_rows(bad, 102)] == [1, 2, 2]
    assert [row["order"] for row in incident_analysis.affected_rows(bad, 101, ordered=False)] == [None] * 3

    event = Event(id="1", kind=EventKind.SPIKE, step=102, time=0.0, message="")
    norms, targets = matrix(NORMS, NAMES, "raw_norm"), matrix(TARGETS, NAMES, "target")
    figure = drawn(incident_figure(norms, targets, bad, event, []))
    assert [
        each["name"] for each in figure["data"] if each.get("yaxis") is None and "markers" not in each.get("mode", "")
    ]
    crosses = [each for each in figure["data"] if each.get("mode") == "markers" and each["x"]]
    assert [(each["name"], each["x"]) for each in crosses] == [("poisoned: not finite", [103])]
    assert incident_figure(norms, targets, [], event, []) is None


def test_a_histogram_counts_every_finite_step_once() -> None:
    norms = Series([0, 1, 2, 6], [1, 1, 4, 1], [], [1.0, 10.0, 2.0, None], [])
    figure = drawn(parameter.histogram(norms))
    assert sum(figure["data"][0]["y"]) == 6
    assert parameter.histogram(Series([0, 1], [1, 1], [], [3.0, 3.0], [])) is None
