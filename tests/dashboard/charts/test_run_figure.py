"""From series, events and the audit list to the figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import pytest

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.runs import RevisionState
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts import colors, log_ticks, run
from steadynorm_dashboard.charts.axis import Axis, XAxis
from steadynorm_dashboard.charts.view import View, moving_average
from steadynorm_dashboard.panels import chart_controls

MAX_POINTS = 2000
"""Points of the whole figure that a browser can redraw every second without stuttering."""


def series(steps: Sequence[int], values: Sequence[float | None], *, count: int = 1, spread: float = 0.0) -> Series:
    """Buckets of `count` steps, `spread` to both sides of the mean."""
    low = [None if value is None else value - spread for value in values]
    high = [None if value is None else value + spread for value in values]
    times = [step / 2 for step in steps]
    return Series(step=list(steps), count=[count] * len(steps), min=low, mean=list(values), max=high, time=times)


def recorded(buckets: int = 20, count: int = 10) -> dict[str, Series]:
    """A calm run."""
    steps = [index * count for index in range(buckets)]
    levels = dict.fromkeys(run.RUN_SERIES, 1.0) | {"nonfinite": 0.0, "loss_nonfinite": 0.0, "learning_rate": 3e-4}
    return {
        name: series(steps, [level] * buckets, count=count, spread=0.1 * level * (count > 1))
        for name, level in levels.items()
    }


def applied(revision: int, step: int, **more: Any) -> AuditEntry:
    """A change of gamma2 that took effect at `step`."""
    given: dict[str, Any] = {
        "time": 0.0,
        "actor": "ada",
        "reason": "spikes",
        "before": {"gamma2": 0.999},
        "after": {"gamma2": 0.99},
        "state": RevisionState.APPLIED,
    }
    return AuditEntry(revision=revision, applied_step=step, **(given | more))


def spike(step: int, ratio: float, parameter: str) -> Event:
    return Event(id="1", kind=EventKind.SPIKE, step=step, time=0.0, message="", parameter=parameter, value=ratio)


def draw(
    data: Mapping[str, Series], audit: Sequence[AuditEntry] = (), events: Sequence[Event] = (), **more: Any
) -> dict[str, Any]:
    figure = run.run_figure(data, audit, events, revision="a run", **more)
    assert figure is not None
    drawn: dict[str, Any] = json.loads(figure.to_json())
    go.Figure(drawn)  # raises on what plotly does not know
    return drawn


def changes(figure: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines through all panels."""
    return [shape for shape in figure["layout"]["shapes"] if shape["yref"] == "paper"]


def trace(figure: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in figure["data"] if one["name"] == name]
    return dict(found)


def test_before_the_first_step_there_is_no_figure() -> None:
    assert run.run_figure({}, [], [], revision="a run") is None
    assert run.run_figure({"loss": series([], [])}, [], [], revision="a run") is None


def test_all_panels_share_one_axis_of_steps_and_keep_a_zoom() -> None:
    figure = draw(recorded())
    assert {one["xaxis"] for one in figure["data"] if one["yaxis"] == "y"} == {
        "x2"
    }  # its labels are on the first screen
    assert {one.get("xaxis", "x") for one in figure["data"] if one["yaxis"] != "y"} == {"x"}
    assert figure["layout"]["xaxis2"]["matches"] == "x"
    assert {one["yaxis"] for one in figure["data"]} == {"y", "y2", "y3", "y4", "y5", "y6"}
    assert figure["layout"]["yaxis2"]["type"] == "log"
    assert figure["layout"]["uirevision"] == "a run"
    assert "range" not in figure["layout"]["xaxis"]  # a new value of it would undo the zoom


def test_only_svg_is_drawn_and_never_more_points_than_a_browser_can_redraw() -> None:
    data = recorded(run.RUN_BUCKETS, 50)
    ratios = data["spike_ratio_max"]
    data["spike_ratio_max"] = series(ratios.step, [40.0] * len(ratios.step), count=50)
    data["nonfinite"] = series(ratios.step, [2.0] * len(ratios.step), count=50)
    figure = run.run_figure(data, [], [], revision="a run")
    assert figure is not None
    assert {one["type"] for one in figure.data} == {"scatter"}
    points = sum(len(one["x"]) for one in figure.data)
    assert 0.8 * MAX_POINTS < points <= MAX_POINTS


def test_a_band_holds_the_extremes_of_each_bucket() -> None:
    data = recorded()
    norms = data["raw_norm"]
    norms.max[7] = 400.0
    band = trace(draw(data), "raw norm, smallest to largest")
    assert 400.0 in band["y"]
    assert band["fill"] == "toself"
    assert band["x"] == norms.step + norms.step[::-1]


def test_single_steps_need_no_band() -> None:
    assert not [one for one in draw(recorded(count=1))["data"] if "smallest to largest" in one["name"]]


def test_a_norm_of_zero_leaves_a_gap_on_the_log_axis() -> None:
    data = recorded(3, 1)
    data["raw_norm"] = series([0, 1, 2], [1.0, 0.0, None])
    assert trace(draw(data), "raw norm")["y"] == [1.0, None, None]


def test_the_smallest_target_is_a_buckets_smallest() -> None:
    data = recorded()
    data["target_min"].min[4] = 0.02
    assert trace(draw(data), "smallest target")["y"][4] == 0.02


def test_the_speed_is_told_from_the_times_of_the_buckets() -> None:
    data = recorded(4, 10)
    for one in data.values():
        one.time[3] = one.time[2]  # the clock stood still
    speed = trace(draw(data), "steps/s")
    assert (speed["x"], speed["y"]) == ([0, 10, 20], [2.0, 2.0, None])


def test_the_throttled_zone_is_shaded() -> None:
    (zone,) = [shape for shape in draw(recorded())["layout"]["shapes"] if shape["type"] == "rect"]
    assert (zone["yref"], zone["y0"], zone["y1"]) == ("y3", 0, THROTTLED_TARGET)


def test_every_spike_is_marked_at_its_norm_even_without_an_event() -> None:
    data = recorded()
    for bucket, ratio in ((3, 134.0), (9, 11.0)):
        data["spike_ratio_max"].max[bucket] = ratio
        data["raw_norm"].max[bucket] = ratio
    marked = trace(draw(data), "spike")
    assert (marked["x"], marked["y"]) == ([30, 90], [134.0, 11.0])
    assert "×134" in marked["text"][0]
    assert "steps 30 to 39" in marked["text"][0]


def test_an_event_gives_its_spike_the_exact_step_and_a_name_that_is_no_html() -> None:
    data = recorded()
    data["spike_ratio_max"].max[3] = 134.0
    marked = trace(draw(data, events=[spike(36, 134.0, "<b>head</b>"), spike(36, 20.0, "body")]), "spike")
    assert marked["x"] == [36]
    assert "&lt;b&gt;head&lt;/b&gt;" in marked["text"][0]


def test_a_small_target_is_marked_with_its_cause_at_its_height() -> None:
    def told(number: str, kind: EventKind, step: int, value: float) -> Event:
        return Event(id=number, time=0.0, kind=kind, step=step, message="", value=value, parameter="p")

    events = [
        told("3", EventKind.FALLING, 150, 0.21),
        told("2", EventKind.THROTTLED, 40, 0.1),
        told("1", EventKind.FALLING, 9999, 0.2),  # not within what is shown
    ]
    drawn = draw(recorded(), events=events)
    marks = trace(drawn, "small target")
    assert (marks["x"], marks["y"]) == ([40, 150], [0.1, 0.21])
    assert ["by a spike" in marks["text"][0], "norms fall" in marks["text"][1]] == [True, True]
    assert marks["customdata"] == ["incident:2", "incident:3"]
    assert "small target" not in [each["name"] for each in draw(recorded())["data"]]


def test_non_finite_gradients_are_marked_where_the_norm_was_last() -> None:
    data = recorded(3, 1)
    data["raw_norm"] = series([0, 1, 2], [2.0, None, 2.0])
    data["nonfinite"] = series([0, 1, 2], [0.0, 3.0, 0.0])
    marked = trace(draw(data), "non-finite")
    assert (marked["x"], marked["y"]) == ([1], [2.0])
    assert "3 non-finite gradients" in marked["text"][0]


def test_losses_that_are_not_finite_are_crosses_at_the_top_of_the_loss_panel_with_their_number() -> None:
    data = recorded(3, 10)
    data["loss"] = series([0, 10, 20], [4.0, None, 2.0], count=10)
    data["loss_nonfinite"] = series([0, 10, 20], [0.0, 0.3, 0.0], count=10)
    marked = trace(draw(data), "non-finite loss")
    assert (marked["x"], marked["y"], marked["yaxis"]) == ([10], [4.0], "y")
    assert "3 non-finite losses, steps 10 to 19" in marked["text"][0]
    assert marked["customdata"] == ["steps:10-19"]
    data["loss"] = series([0, 10, 20], [None] * 3)
    assert trace(draw(data), "non-finite loss")["y"] == [1.0]  # also in a run without any finite loss


def test_an_applied_change_is_a_line_with_its_revision_and_step() -> None:
    figure = draw(recorded(), [applied(3, 112)])
    (line,) = changes(figure)
    assert (line["x0"], line["x1"], line["yref"]) == (112, 112, "paper")
    (label,) = [note for note in figure["layout"]["annotations"] if note["text"] == "r3 @ step 112"]
    assert label["hovertext"] == "gamma2 0.999 → 0.99 (ada: spikes)"


def test_the_hover_of_a_change_shows_a_hostile_reason_as_written() -> None:
    figure = draw(recorded(), [applied(3, 112, reason="<a href='//evil.example'>x</a>", actor="<i>eve</i>")])
    (label,) = [note for note in figure["layout"]["annotations"] if note["text"] == "r3 @ step 112"]
    assert "<" not in label["hovertext"]
    assert "&lt;a" in label["hovertext"]


def test_changes_that_are_not_in_force_or_out_of_sight_draw_no_line() -> None:
    unseen = [
        applied(1, 5000),
        AuditEntry(
            revision=2,
            time=0.0,
            actor="ada",
            reason="",
            before={},
            after={"lr_scale": 2.0},
            state=RevisionState.PENDING,
        ),
    ]
    assert changes(draw(recorded(), unseen)) == []


def test_labels_of_changes_close_together_do_not_cover_each_other() -> None:
    figure = draw(recorded(), [applied(revision, 100 + revision) for revision in range(1, 8)])
    lines = changes(figure)
    labels = [note["text"] for note in figure["layout"]["annotations"] if "@ step" in note["text"]]
    assert len(lines) == 7
    assert labels == []
    (label,) = [note for note in figure["layout"]["annotations"] if note["text"] == "r1–r7"]
    assert label["x"] == 107  # the newest one, which a click opens
    assert label["name"] == "change:7"
    assert label["hovertext"].count("<br>") == 6
    titles = [note for note in figure["layout"]["annotations"] if note["text"].startswith("<b>")]
    assert label["yshift"] >= max(note["font"]["size"] for note in titles) + 4  # above the first panel's title


def test_changes_far_apart_have_a_label_each() -> None:
    figure = draw(recorded(20), [applied(1, 10), applied(2, 100), applied(3, 190)])
    labels = [note for note in figure["layout"]["annotations"] if "@ step" in note["text"]]
    assert [(note["text"], note["xanchor"]) for note in labels] == [
        ("r3 @ step 190", "right"),
        ("r2 @ step 100", "center"),
        ("r1 @ step 10", "left"),
    ]


def settled(values: list[float], share: float) -> dict[str, Any]:
    """A logarithmic axis over `values`, which has `share` of 500 px."""
    layout = {"height": 500, "yaxis2": {"type": "log", "domain": [0.0, share], "nticks": 5}}
    log_ticks.set_ticks([{"yaxis": "y2", "y": values}], layout)
    axis: dict[str, Any] = layout["yaxis2"]  # type: ignore[assignment]
    return axis


def test_a_low_logarithmic_panel_has_powers_of_ten_and_never_more_than_it_has_room_for() -> None:
    assert settled([0.08, 1.0], 0.12)["dtick"] == 1
    assert settled([1e-9, 1e3], 0.12)["dtick"] == 5  # 60 px: three labels over twelve decades
    assert settled([0.08, 1.0], 0.5)["dtick"] == "D2"
    assert "dtick" not in settled([0.5, 1.0], 0.12)  # even steps within one decade
    assert settled([0.5, 1.0], 0.12)["nticks"] == 3


def labels(axis: Mapping[str, Any], low: float, high: float) -> int:
    """How many labels with that `dtick` there are from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if axis["dtick"] == "D2":
        return sum(low <= digit * 10.0**power <= high for power in powers for digit in (1, 2, 5))
    return sum(low <= 10.0**power <= high for power in powers if power % axis["dtick"] == 0)


@pytest.mark.parametrize("share", [0.1, 0.14, 0.36])
def test_a_logarithmic_axis_over_a_decade_or_more_has_two_labels_at_least(share: float) -> None:
    for least in (0.0012, 0.5, 1.0, 1.1, 12.0, 19.0, 90.0):
        for times in (8.0, 12.0, 33.0, 80.0, 99.0, 300.0, 5_000.0):
            assert labels(settled([least, least * times], share), least, least * times) >= 2, (least, times)


@pytest.mark.parametrize("values", [[0.08, 900.0], [0.0004, 1.0], [0.5, 1.0], [1.0, 100_000.0]])
@pytest.mark.parametrize("share", [0.12, 0.5])
def test_each_label_of_a_logarithmic_axis_is_a_whole_number(values: list[float], share: float) -> None:
    assert settled(values, share)["tickformat"] == ",~g"  # else plotly writes 2 and 5 for 0.02 and 0.05


def test_a_smoothed_line_has_its_own_values_faint_behind_it_and_leaves_the_worst_values_alone() -> None:
    data = recorded(4, 10)
    data["loss"] = series([0, 10, 20, 30], [4.0, None, 2.0, 2.0], count=10, spread=0.5)
    figure = draw(data, view=View(smoothing=0.5))
    own, smooth = trace(figure, "loss"), trace(figure, "loss, smoothed")
    assert (own["y"], own["opacity"], own["showlegend"]) == ([4.0, None, 2.0, 2.0], 0.35, False)
    assert smooth["y"] == pytest.approx([4.0, None, 8 / 3, 16 / 7], nan_ok=True)
    assert own["legendgroup"] == smooth["legendgroup"]  # hidden and shown together
    assert "smallest target, smoothed" not in {one["name"] for one in figure["data"]}
    assert trace(figure, "loss, smallest to largest")


def test_on_a_logarithmic_axis_one_spike_does_not_outweigh_the_calm_steps_of_an_average() -> None:
    assert moving_average([1.0, 1e4, 1.0], 0.9, log=True)[-1] == pytest.approx(10 ** (4 * 0.09 / 0.271))
    assert moving_average([1.0, 0.0, None], 0.9, log=True) == [1.0, None, None]


def test_any_panel_can_have_a_logarithmic_axis_and_any_a_linear_one() -> None:
    data = recorded(3, 1)
    data["target_min"] = series([0, 1, 2], [1.0, 0.001, 0.02])
    layout = draw(data, view=View(log=frozenset({"loss", "target_min"})))["layout"]
    assert [layout[f"yaxis{at}"].get("type") for at in ("", "2", "3", "4")] == ["log", None, "log", None]
    titles = [note["text"] for note in layout["annotations"]]
    assert "<b>loss</b> as logged, log scale" in titles
    assert any("line: too small (below 0.3)" in title for title in titles)
    (line,) = [shape for shape in layout["shapes"] if shape["yref"] == "y3"]
    assert (line["type"], line["y0"], line["y1"]) == ("line", THROTTLED_TARGET, THROTTLED_TARGET)  # no 0 to shade from
    assert "range" not in layout["yaxis3"]


def test_a_logarithmic_x_axis_begins_at_step_1_and_a_zoom_of_it_is_in_steps() -> None:
    data = recorded()
    axis = Axis.of(XAxis.STEP, data.values(), log=True)
    figure = draw(data, [applied(3, 112)], x_axis=axis)
    assert trace(figure, "loss")["x"][:2] == [1, 10]
    assert figure["layout"]["xaxis"]["type"] == "log"
    (label,) = [note for note in figure["layout"]["annotations"] if note["text"] == "r3 @ step 112"]
    assert label["x"] == pytest.approx(math.log10(112))  # as plotly expects it of annotations
    assert changes(figure)[0]["x0"] == 112  # but not of shapes
    assert axis.step_at("2.0") == pytest.approx(100)
    assert Axis.of(XAxis.CLOCK, data.values(), log=True).layout()["type"] == "date"


def test_the_digits_between_powers_of_ten_are_not_written_in_any_low_panel_of_a_run() -> None:
    data = recorded()
    data["spike_ratio_max"] = series([0, 1, 2], [0.9, 1.1, 60.0])
    assert draw(data)["layout"]["yaxis4"]["dtick"] == 1


@pytest.mark.parametrize(
    ("window", "newest", "first"),
    [("last 200", 1000, 801), ("last 1k", 300, 0), ("last 10k", 25_000, 15_001), ("all steps", 25_000, None)],
)
def test_a_window_is_so_many_steps_up_to_the_newest(window: str, newest: int, first: int | None) -> None:
    assert chart_controls.first_step(window, newest) == first


@pytest.mark.parametrize("color", [color for color, _ in colors.LINE_STYLES])
@pytest.mark.parametrize("ground", ["#ffffff", "#10161c"])
def test_every_line_stands_out_from_a_light_and_from_a_dark_page(color: str, ground: str) -> None:
    lighter, darker = sorted((luminance(color), luminance(ground)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3.0  # WCAG 2.2, non-text contrast


def luminance(color: str) -> float:
    """Relative luminance as WCAG defines it."""
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_pinned_charts_are_on_top_with_their_own_marks() -> None:
    data = recorded()
    view = View(pinned=("target_min", "learning_rate"))
    figure = draw(data, (), [spike(150, 20.0, "head.weight")], view=view)
    titles = [note["text"].partition("</b>")[0] for note in figure["layout"]["annotations"] if "</b>" in note["text"]]
    assert titles[:3] == ["<b>smallest target", "<b>learning rate", "<b>loss"]
    axis = {trace["name"]: trace.get("yaxis", "y") for trace in figure["data"]}
    assert (axis["smallest target"], axis["raw norm"], axis["spike"]) == ("y", "y4", "y4")
    domains = [figure["layout"][f"yaxis{at}" if at > 1 else "yaxis"]["domain"] for at in range(1, 7)]
    assert all(above[0] > below[1] for above, below in pairwise(domains))
    assert domains[0][1] == pytest.approx(1.0)
    assert domains[-1][0] == pytest.approx(0.0)
