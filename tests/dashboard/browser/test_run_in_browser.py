"""A run's charts in a real browser: served packed, zoomed, frozen, by time, and clicked."""

from __future__ import annotations

import gzip
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from playwright.sync_api import ElementHandle, Page, expect

from steadynorm_cli.local_stack import LocalStack
from steadynorm_dashboard import launch
from steadynorm_dashboard.components import plotly_bundle

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.dashboard import ScriptedRun

OPERATOR = "operator-token-for-tests"
SPIKES = (120, 270, 420)
"""Steps at which a scripted run of 560 steps spikes, and of which the browser is asked."""

NEWEST = "node => Math.max(...node.data[0].x)"
WIDTH = "node => node.data.find(trace => trace.name === 'loss').x.slice(0, 2).reduce((a, b) => b - a)"


@pytest.fixture(scope="module")
def run(server: LocalStack, scripted_run: type[ScriptedRun]) -> ScriptedRun:
    """A run that spiked, was changed at step 480, and stands still unless it is told to go on."""
    run = scripted_run(server, "watched", steps=480)
    server.client().change(run.run_id, {"gamma2": 0.99}, revision=0, reason="calmer")
    run.send(80)
    return run


@pytest.fixture
def visit(server: LocalStack, run: ScriptedRun, regular: Visit) -> Visit:
    """A visitor on the page of the run, who leaves before the server does."""
    regular.page.goto(launch.link(server.dashboard, run.run_id, OPERATOR))
    regular.settle()
    return regular


@pytest.fixture
def chart(visit: Visit) -> ElementHandle:
    """The run's chart, drawn."""
    return visit.page.locator(".steadynorm-chart").first.element_handle()


def place(page: Page, chart: ElementHandle, x: Any, y: float, axis: str = "yaxis2") -> tuple[float, float]:
    """Where a point of the chart is on the screen."""
    found: list[float] = page.evaluate(
        """([node, x, y, axis]) => {
            node.scrollIntoView();
            const box = node.getBoundingClientRect(), {xaxis} = node._fullLayout, yaxis = node._fullLayout[axis];
            return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
        }""",
        [chart, x, y, axis],
    )
    return found[0], found[1]


def test_a_zoom_is_read_anew_so_that_every_step_of_it_is_drawn(visit: Visit, chart: ElementHandle) -> None:
    page = visit.page
    assert page.evaluate(WIDTH, chart) > 1
    left, height = place(page, chart, 110, 2.0, "yaxis")
    right, _ = place(page, chart, 140, 2.0, "yaxis")
    page.mouse.move(left, height)
    page.mouse.down()
    page.mouse.move(right, height, steps=4)
    page.mouse.up()
    expect(page.get_by_text("at full resolution")).to_be_visible()
    page.wait_for_function(f"node => ({WIDTH})(node) === 1", arg=chart)
    spike = "node => Math.max(...node.data.find(trace => trace.name === 'raw norm').y)"
    tallest = page.evaluate(spike, chart)
    low, high = page.evaluate("node => node._fullLayout.xaxis.range", chart)
    assert 105 < low < 115
    assert 135 < high < 145
    page.get_by_role("button", name="Whole range").click()
    page.wait_for_function(f"node => ({WIDTH})(node) > 1 && node._fullLayout.xaxis.range[1] > 500", arg=chart)
    band = "node => Math.max(...node.data.find(trace => trace.name === 'raw norm, smallest to largest').y)"
    assert page.evaluate(band, chart) >= tallest > 10  # the whole kept the spike, too


def test_frozen_charts_stand_still_and_say_how_far_behind(visit: Visit, chart: ElementHandle, run: ScriptedRun) -> None:
    page = visit.page
    page.get_by_role("button", name="Pause charts").click()
    expect(page.get_by_text("The charts are paused at step")).to_be_visible()
    before, held = run.step, page.evaluate(NEWEST, chart)
    run.send(25)
    expect(page.get_by_text("The run is 25 steps ahead.")).to_be_visible()
    expect(page.get_by_test_id("stMetricValue").first).to_have_text(str(before + 24))  # numbers stay live
    assert page.evaluate(NEWEST, chart) == held
    page.get_by_role("button", name="Resume updates").click()
    page.wait_for_function(f"([node, held]) => ({NEWEST})(node) > held", arg=[chart, held])
    expect(page.get_by_text("The charts are paused")).to_have_count(0)


def test_by_the_clock_the_axis_is_one_of_dates(visit: Visit, chart: ElementHandle) -> None:
    visit.page.get_by_role("radio", name="by clock").click()
    visit.page.wait_for_function("node => node._fullLayout.xaxis.type === 'date'", arg=chart)
    visit.page.get_by_role("radio", name="by time since start").click()
    visit.page.wait_for_function("node => node._fullLayout.xaxis.type === 'linear'", arg=chart)


def test_a_click_on_a_spike_opens_its_incident(visit: Visit, chart: ElementHandle, run: ScriptedRun) -> None:
    page = visit.page
    mark = "node => { const {x, y} = node.data.find(trace => trace.name === 'spike'); return [x[0], y[0]]; }"
    x, y = page.evaluate(mark, chart)
    assert x == SPIKES[0]
    page.mouse.move(*place(page, chart, x, y))
    page.mouse.click(*place(page, chart, x, y))
    expect(page.get_by_role("heading", name=f"@ step {SPIKES[0]}")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query).keys() == {"run", "incident"}


def test_a_click_on_the_label_of_a_change_opens_what_is_known_of_it(visit: Visit, chart: ElementHandle) -> None:
    page = visit.page
    page.locator(".steadynorm-chart .annotation").get_by_text("r1 @ step").click()
    expect(page.get_by_role("heading", name="Change r1")).to_be_visible()
    expect(page.get_by_text("calmer").first).to_be_visible()


def test_what_never_changes_of_streamlit_and_plotly_is_served_packed(server: LocalStack) -> None:
    index = urllib3.request("GET", server.dashboard)
    assert index.headers["Cache-Control"] == "no-cache"
    script = re.search(r"static/js/index\.[^\"]+\.js", index.data.decode())
    assert script is not None
    for path in (script[0], plotly_bundle.ADDRESS):
        for _ in range(1000):  # the first answer is packed beside those that follow
            answer = urllib3.request(
                "GET", f"{server.dashboard}/{path}", headers={"Accept-Encoding": "gzip"}, decode_content=False
            )
            assert answer.status == 200
            assert "immutable" in answer.headers["Cache-Control"]
            if answer.headers.get("Content-Encoding") == "gzip":
                break
        else:
            pytest.fail(f"{path} is never packed")
        assert gzip.decompress(answer.data).startswith((b"/**\n* plotly.js", b"import", b"const", b"var"))
