"""Runs over each other: the figure, what differs between them, the page, and its link."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest
from tests.support.dashboard import tables

import steadynorm_dashboard
from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.series import Series
from steadynorm_contract.signals import signal
from steadynorm_dashboard.charts import comparison
from steadynorm_dashboard.charts.axis import Axis, XAxis
from steadynorm_dashboard.charts.comparison import ComparedRun
from steadynorm_dashboard.charts.view import AS_RECORDED, View
from steadynorm_dashboard.formatting import run_differences, run_summaries
from steadynorm_dashboard.pages.compare import BASELINE, SIGNAL

if TYPE_CHECKING:
    from tests.support.dashboard import StartRun

APP = Path(steadynorm_dashboard.__file__).with_name("app.py")
OPERATOR = "operator-token-for-tests"

Visit = Callable[..., AppTest]


def recorded(steps: int, began: float, *, width: int = 1, level: float = 1.0) -> dict[str, Series]:
    """Series of a calm run that takes two steps a second."""
    at = list(range(0, steps, width))
    flat: list[float | None] = [level] * len(at)
    wide: list[float | None] = [level * 9] * len(at)
    times = [began + step / 2 for step in at]
    return {name: Series(at, [width] * len(at), flat, flat, wide, times) for name in comparison.COMPARED_SERIES}


def draw(runs: list[ComparedRun], along: XAxis = XAxis.STEP, view: View = AS_RECORDED) -> dict[str, Any]:
    axes = [Axis.of(along, run.series.values(), run.started, "UTC", unit=comparison.unit(runs)) for run in runs]
    figure = comparison.comparison_figure(runs, axes, revision="r", view=view)
    assert figure is not None
    drawn: dict[str, Any] = json.loads(figure.to_json())
    go.Figure(drawn)  # raises on what plotly does not know
    return drawn


def of(figure: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    return [one for one in figure["data"] if one["name"] == name]


def test_each_run_has_its_colour_and_dash_in_all_five_panels() -> None:
    figure = draw([ComparedRun("first", 0.0, recorded(20, 0.0)), ComparedRun("second", 0.0, recorded(50, 0.0))])
    for name in ("first", "second"):
        lines = of(figure, name)
        assert {one["yaxis"] for one in lines} == {"y", "y2", "y3", "y4", "y5"}
        assert len({(one["line"]["color"], one["line"]["dash"]) for one in lines}) == 1
    assert of(figure, "first")[0]["line"] != of(figure, "second")[0]["line"]
    assert [len(of(figure, name)[0]["x"]) for name in ("first", "second")] == [20, 50]  # the shorter one ends earlier


def test_by_elapsed_time_runs_begin_together_and_by_the_clock_one_after_the_other() -> None:
    runs = [ComparedRun("first", 1000.0, recorded(400, 1000.0)), ComparedRun("second", 4600.0, recorded(400, 4600.0))]
    elapsed = draw(runs, XAxis.ELAPSED)
    assert of(elapsed, "first")[0]["x"] == pytest.approx(of(elapsed, "second")[0]["x"])
    assert elapsed["layout"]["xaxis"]["title"]["text"] == "time since the run started (s)"
    clock = draw(runs, XAxis.CLOCK)
    assert of(clock, "first")[0]["x"][0] == "1970-01-01 00:16:40.000"
    assert of(clock, "second")[0]["x"][0] == "1970-01-01 01:16:40.000"
    assert clock["layout"]["xaxis"]["title"]["text"] == "time (UTC)"


def test_a_band_keeps_the_extremes_of_every_run_where_it_is_wanted() -> None:
    runs = [ComparedRun("a", 0.0, recorded(64, 0.0, width=8)), ComparedRun("b", 0.0, recorded(64, 0.0))]
    assert not of(draw(runs, view=View(bands=False)), "a, smallest to largest")
    figure = draw(runs)
    bands = of(figure, "a, smallest to largest")
    assert len(bands) == 3
    assert all(max(one["y"]) == 9.0 for one in bands)


def test_a_hostile_name_is_shown_as_written() -> None:
    figure = draw([ComparedRun("<b>x</b>", 0.0, recorded(5, 0.0))])
    assert {one["name"] for one in figure["data"]} == {"&lt;b&gt;x&lt;/b&gt;"}


def test_no_more_points_than_a_browser_redraws_with_six_runs() -> None:
    points = comparison.buckets(6)
    runs = [ComparedRun(str(at), 0.0, recorded(points * 8, 0.0, width=8)) for at in range(6)]
    assert sum(len(one["x"]) for one in draw(runs)["data"]) <= 4000


def test_runs_are_ranked_by_last_best_and_mean_with_the_difference_to_a_baseline() -> None:
    def one_bucket(count: int, low: float, mean: float | None, high: float) -> Series:
        return Series([0], [count], [low], [mean], [high])

    halves = Series([0, 64], [60, 40], [1.0, 1.0], [2.0, 4.0], [3.0, 9.0])
    runs = [
        run_summaries.summary("a", signal("loss"), 2.5, one_bucket(500, 1.5, 3.0, 9.0), halves),
        run_summaries.summary("b", signal("loss"), None, one_bucket(500, 1.0, 3.0, 9.0), one_bucket(100, 1, None, 2)),
    ]
    first, second = run_summaries.rows(runs, baseline=0)
    assert (first["last"], first["best"], first[run_summaries.MEAN]) == (2.5, 1.5, pytest.approx(2.8))
    assert (second["last"], second["best"], second["difference of the best"]) == (None, 1.0, -0.5)
    assert second[f"difference of the {run_summaries.MEAN}"] is None
    target = run_summaries.summary("c", signal("target_min"), 0.5, one_bucket(500, 0.1, 0.5, 0.9), None)
    assert target.values["best"] == 0.9  # small targets are bad


@pytest.mark.parametrize("along", list(XAxis))
def test_an_axis_leads_from_steps_to_places_and_back_even_beyond_what_is_known(along: XAxis) -> None:
    axis = Axis.of(along, recorded(100, 7200.0, width=10).values(), 7200.0, "Europe/Berlin")
    for step in (0, 37, 90, 120):
        assert axis.step_at(axis.x(step)) == pytest.approx(step, abs=0.01)
    assert axis.share(45, 0, 90) == pytest.approx(0.5)


def test_within_a_zoom_an_axis_still_knows_the_rest_of_the_run() -> None:
    whole = Axis.of(XAxis.ELAPSED, recorded(1000, 0.0, width=100).values())
    zoomed = Axis.of(XAxis.ELAPSED, [Series([500, 501], [1, 1], [], [], [], [264.0, 291.0])], known=whole)
    assert zoomed.x(100) == whole.x(100)
    assert zoomed.x(501) == 291.0 / 60.0  # minutes, as for the whole


@pytest.fixture
def visit(server: LocalStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Visit:
    """visit(compare="a,b") -> the app after its first run for a visitor of that link.

    baseline_before: with which run the visitor compared before.
    """
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
    monkeypatch.setenv("STEADYNORM_SERVER", server.server)

    def open_link(baseline_before: str = "", **query: str) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=60.0)
        app.session_state[f"compare/{BASELINE}"] = baseline_before
        for name, value in (query | {"token": OPERATOR}).items():
            app.query_params[name] = value
        app.run()
        assert not app.exception, app.exception
        return app

    return open_link


def said(app: AppTest) -> str:
    kinds = (app.title, app.header, app.markdown, app.caption, app.error, app.warning, app.info, app.code)
    words = "\n".join(str(element.value) for kind in kinds for element in kind)
    return words.replace("\\", "").replace("\u2060", "")


def test_what_differs_is_told_first_with_who_changed_it(visit: Visit, start_run: StartRun, server: LocalStack) -> None:
    calm = start_run("compared-calm", steps=50, tags={"size": "small"})
    changed = start_run("compared-changed", steps=80, tags={"size": "large"})
    server.client().change(changed.run_id, {"gamma2": 0.99}, revision=0, reason="spikes")
    changed.send(5)
    page = visit(compare=f"{calm.run_id},{changed.run_id}")
    values, table = tables(page)
    assert list(table[0]) == ["setting", "compared-calm", "compared-changed", "last changed by"]
    rows = {row["setting"]: list(row.values())[1:] for row in table}
    assert set(rows) == {"gamma2", "tag size"}
    assert rows["gamma2"][:2] == ["0.999", "0.99"]
    assert "compared-changed: operator, r1 @ step 85 (spikes)" in rows["gamma2"][2]
    assert rows["tag size"] == ["small", "large", ""]
    assert [row["run"] for row in values] == ["compared-calm (baseline)", "compared-changed"]
    series = server.client().series(changed.run_id, ["loss"]).series["loss"]
    assert float(values[1]["best"]) == pytest.approx(min(low for low in series.min if low is not None), abs=1e-3)
    last = [float(row["last"]) for row in values]
    assert float(values[1]["difference of the last"]) == pytest.approx(last[1] - last[0], abs=2e-3)
    page.selectbox(key=f"compare/{SIGNAL}").set_value("target_min")
    page.selectbox(key=f"compare/{BASELINE}").set_value(changed.run_id).run()
    values, _ = tables(page)
    assert [row["run"] for row in values] == ["compared-calm", "compared-changed (baseline)"]
    assert page.query_params["signal"] == "target_min"
    assert page.query_params["baseline"] == changed.run_id
    page.toggle(key="compare/everything").set_value(True).run()
    everything = [row["setting"] for row in tables(page)[1]]
    assert everything[:2] == ["gamma2", "tag size"]
    assert {"gamma1", "mode", "framework"} <= set(everything)
    assert f"/?compare={calm.run_id},{changed.run_id}" in said(page)


def test_a_run_that_does_not_exist_is_told_and_the_others_are_compared(visit: Visit, start_run: StartRun) -> None:
    alone = start_run("compared-alone", steps=5).run_id
    page = visit(compare=f"{alone},nobody-00000000", baseline_before="nobody-00000000")
    assert [row["run"] for row in tables(page)[0]] == ["compared-alone (baseline)"]
    assert "There is no run nobody-00000000 on this server" in said(page)
    assert "compared-alone" in said(page)


def test_two_runs_of_one_name_are_told_apart(start_run: StartRun, server: LocalStack) -> None:
    ids = [start_run("compared-twin", steps=0).run_id for _ in range(2)]
    labels = run_differences.labels([server.client().run(one) for one in ids])
    assert len(set(labels)) == 2
    assert all(label == f"compared-twin ({one[-8:]})" for label, one in zip(labels, ids, strict=True))


def test_by_time_with_a_range_the_page_still_draws(visit: Visit, start_run: StartRun) -> None:
    ids = [start_run(f"compared-timed-{at}", steps=30 * (at + 1)).run_id for at in range(3)]
    page = visit(compare=",".join(ids))
    page.segmented_control(key="compare/x axis").set_value(XAxis.ELAPSED)
    page.segmented_control(key="compare/window").set_value("last 200").run()
    assert not page.exception
    assert not page.error
    page.segmented_control(key="compare/x axis").set_value(XAxis.CLOCK).run()
    assert not page.exception


def test_a_change_has_a_page_with_who_when_why_and_what_came_of_it(
    visit: Visit, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("told-change", steps=50)
    server.client().change(run.run_id, {"gamma2": 0.99}, revision=0, reason="spikes since 40")
    page = visit(run=run.run_id, change="1")
    assert "pending" in said(page)
    run.send(5)
    page.run()
    assert "applied @ step 55" in said(page)
    assert "Reason: spikes since 40" in said(page).replace("*", "")
    assert [list(row.values()) for row in tables(page)[0]] == [
        ["gamma2", "0.999 (half-life 693 steps)", "0.99 (half-life 69 steps)"]
    ]
    assert f"run={run.run_id}&change=1" in said(page)
    assert "There is no r7 among" in said(visit(run=run.run_id, change="7"))
