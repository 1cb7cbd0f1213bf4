"""A run's charts in a real browser: served packed, zoomed, frozen, by time, and clicked."""

from __future__ import annotations

import base64
import gzip
import itertools
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from playwright.sync_api import Browser, ElementHandle, Page, expect

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.client import Client
from steadynorm_dashboard import launch
from steadynorm_dashboard.components import first_chart, plotly_bundle

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.dashboard import ScriptedRun

OPERATOR, PROPOSER = "operator-token-for-tests", "proposer-token-for-tests"
SPIKES = (120, 270, 420)
"""Steps at which a scripted run of 560 steps spikes, and of which the browser is asked."""

NEWEST = "node => Math.max(...node.data[0].x)"
WIDTH = "node => node.data.find(trace => trace.name === 'loss').x.slice(0, 2).reduce((a, b) => b - a)"


@pytest.fixture(scope="module")
def run(server: LocalStack, scripted_run: type[ScriptedRun]) -> ScriptedRun:
    """A run that spiked, was changed at step 520, and stands still unless it is told to go on."""
    run = scripted_run(server, "watched", steps=480)
    server.client().change(run.run_id, {"gamma2": 0.99}, revision=0, reason="calmer")
    run.send(40)  # the answer has the change, which the next step applies
    run.send(40)
    return run


@pytest.fixture
def visit(server: LocalStack, run: ScriptedRun, regular: Visit) -> Visit:
    """A visitor on the page of the run, which is loaded anew unless the test before left it as it had found it."""
    if not regular.as_found:
        regular.page.goto(launch.link(server.dashboard, run.run_id, OPERATOR))
    regular.as_found = False
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
    expect(page.get_by_text("at full resolution")).to_have_count(0)
    visit.as_found = True


def test_a_line_goes_through_the_panels_and_the_map_at_the_pointer_and_covers_no_value(
    visit: Visit, chart: ElementHandle
) -> None:
    page = visit.page
    map_ = page.locator(".steadynorm-chart[data-follows]")
    expect(map_.locator(".heatmaplayer image")).to_be_visible()
    shown = "node => [node._fullLayout.xaxis.range, node._fullLayout.xaxis._offset, node._fullLayout.xaxis._length]"
    page.wait_for_function(
        f"([chart, map]) => String(({shown})(chart)) === String(({shown})(map))", arg=[chart, map_.element_handle()]
    )  # a spike's column stands under its triangle
    filled = "node => Math.abs(node._fullLayout.width - node.clientWidth) < 1 && node.clientWidth"
    page.wait_for_function(filled, arg=chart)
    page.evaluate("node => { node.parentElement.style.width = '500px'; }", chart)  # its place changes, not the window
    page.wait_for_function("node => node._fullLayout.width === 500", arg=chart)
    page.evaluate("node => { node.parentElement.style.width = ''; }", chart)
    page.wait_for_function(f"node => ({filled})(node) > 600", arg=chart)
    page.mouse.move(*place(page, chart, SPIKES[1], 2.0, "yaxis"))
    line = page.locator(".steadynorm-line")
    expect(line).to_have_count(2)
    assert len({one.evaluate("node => node.style.left") for one in line.all()}) == 1
    values = page.locator(".steadynorm-values")
    expect(values).to_have_count(6)
    expect(values.nth(0)).to_have_text(re.compile(r"^step [\d,]+loss|^step [\d,]+\d\.\d+ \("))
    expect(values.nth(1)).to_have_text(re.compile(r"raw norm [\d.]+ \([\d.]+ to [\d.]+\)stabilized norm"))
    over = """node => [...node.querySelectorAll(".steadynorm-values")].some((box) => {
        const {top, bottom} = box.getBoundingClientRect(), above = node.getBoundingClientRect().top;
        return node._fullLayout._subplots.yaxis.map(name => node._fullLayout[name.replace("y", "yaxis")]).some(
            ({_offset, _length}) => bottom > above + _offset + 1 && top < above + _offset + _length);
    })"""
    assert not page.evaluate(over, chart)
    page.mouse.move(5, 5)
    expect(line).to_have_count(0)
    page.evaluate("node => { window.drawn = 0; node.on('plotly_afterplot', () => { window.drawn += 1; }); }", chart)
    page.wait_for_timeout(3000)
    assert page.evaluate("window.drawn") == 0  # the run stands still, so nothing is drawn again each second
    visit.as_found = True


def test_what_was_too_small_to_draw_is_drawn_once_the_chart_is_zoomed(visit: Visit, chart: ElementHandle) -> None:
    zoomed = """async (node) => {
        let drawn = 0;
        node.steadynormDraws = () => { drawn += 1; node.steadynormDraws = null; };
        const { range } = node._fullLayout.xaxis;
        await Plotly.relayout(node, { "xaxis.range": [range[0], (range[0] + range[1]) / 2] });
        await Plotly.relayout(node, { "xaxis.range": range });
        return drawn;
    }"""
    assert visit.page.evaluate(zoomed, chart) == 1


def test_lines_are_smoothed_and_any_axis_is_logarithmic_from_the_menu(visit: Visit, chart: ElementHandle) -> None:
    page = visit.page
    page.get_by_role("button", name="View", exact=True).click()
    logarithmic = page.get_by_test_id("stButtonGroup").filter(has_text="Logarithmic y axis")
    logarithmic.get_by_role("button", name="smallest target", exact=True).click()
    page.wait_for_function("node => node._fullLayout.yaxis3.type === 'log'", arg=chart)
    page.get_by_role("slider", name="Smoothing").press("End")
    page.wait_for_function("node => node.data.some(trace => trace.name === 'loss, smoothed')", arg=chart)
    page.get_by_text("Logarithmic x axis").click()
    page.wait_for_function("node => node._fullLayout.xaxis.type === 'log'", arg=chart)
    map_ = page.locator(".steadynorm-chart[data-follows]").element_handle()
    page.wait_for_function("node => node._fullLayout.xaxis.type === 'log'", arg=map_)
    page.keyboard.press("Escape")


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
    visit.as_found = True


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


def test_a_scalar_of_the_loops_own_is_found_pinned_and_watched_by_a_rule_that_acts(
    server: LocalStack, scripted_run: type[ScriptedRun], regular: Visit
) -> None:
    run = scripted_run(server, "own scalar", steps=40)
    run.logs = {"my/reward": 1.0}
    run.send(40)
    page = regular.page
    page.goto(launch.link(server.dashboard, run.run_id, OPERATOR))
    regular.settle()
    chart = page.get_by_label("Charts of logged scalars: my/reward")
    expect(chart).to_have_count(1)
    box = page.get_by_role("combobox", name="Pinned above the other charts")
    box.scroll_into_view_if_needed()  # scrolling closes a list
    regular.settle()
    box.click()
    page.get_by_role("option", name="my/reward").click()
    page.wait_for_url("**my*2Freward**")  # the address has it, for a link
    page.keyboard.press("Escape")
    expect(chart).to_have_count(1)  # above, and no longer below
    page.get_by_role("tab", name="Automation").click()
    page.get_by_text("Add a rule").click()
    for label, text in {"Rule": "low", "When": "my/reward < 0", "Change": "lr_scale=0.1"}.items():
        page.get_by_role("textbox", name=label, exact=True).last.fill(text)
    page.get_by_role("button", name="Save rule").click()
    expect(page.get_by_text("my/reward < 0").first).to_be_visible()
    run.logs = {"my/reward": -5.0}
    run.send(5)
    changed = server.client().run(run.run_id)
    assert (changed.desired.revision, changed.applied.settings.lr_scale) == (1, 0.1)
    page.get_by_role("tab", name="Changes").click()
    expect(page.get_by_text("rule:low by").first).to_be_visible()


def test_what_a_program_proposes_is_approved_on_the_page_and_comes_into_force(
    visit: Visit, run: ScriptedRun, server: LocalStack
) -> None:
    page, client = visit.page, server.client()
    before = client.settings(run.run_id).revision
    Client(server.server, PROPOSER).propose(run.run_id, {"gamma1": 0.7}, revision=before, reason="smoother steps")
    expect(page.get_by_text("smoother steps")).to_be_visible()
    expect(page.get_by_text(re.compile("^tuner ·"))).to_be_visible()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", name="Proposed changes")).to_have_count(0)
    run.send(5)
    expect(page.get_by_text(f"applied @ step {run.step}").first).to_be_visible()
    applied = client.run(run.run_id).applied
    assert (applied.revision, applied.settings.gamma1) == (before + 1, 0.7)
    assert client.audit(run.run_id).entries[0].actor == "operator"
    visit.as_found = True


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


def test_one_click_is_one_change_however_busy_the_browser_is(
    visit: Visit, run: ScriptedRun, server: LocalStack
) -> None:
    page, client = visit.page, server.client()
    before = client.settings(run.run_id)
    page.get_by_role("button", name="Reset", exact=True).click()
    now = page.get_by_role("button", name="Reset statistics now").first
    expect(now).to_be_visible()
    now.evaluate(  # the timers of the page's parts are due when the click is sent, and are answered first
        "button => { const start = performance.now(); while (performance.now() - start < 2500); button.click(); }"
    )
    expect(page.get_by_role("strong").get_by_text(f"r{before.revision + 1}", exact=True)).to_be_visible()
    visit.settle()
    page.wait_for_timeout(1000)
    assert client.settings(run.run_id).settings.reset_generation == before.settings.reset_generation + 1


def test_the_report_of_the_first_chart_leaves_a_slow_server_time_to_answer(browser: Browser) -> None:
    page = browser.new_page()
    page.clock.install(time=0)
    module = base64.b64encode(first_chart.SCRIPT.encode()).decode()
    page.evaluate(
        """async (module) => {
            window.reports = [];
            document.documentElement.dataset.steadynormDrawn = "";
            const { default: wait } = await import(`data:text/javascript;base64,${module}`);
            const report = (name) => window.reports.push([name, Math.round(performance.now())]);
            const given = { parentElement: document.body, setTriggerValue: report };
            wait(given)();
            wait(given); // as where the page is drawn again
        }""",
        module,
    )
    page.clock.run_for(3_600_000)  # of a server that never comes to the page's end
    reports = page.evaluate("window.reports")
    times = [at for _, at in reports]
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert {name for name, _ in reports} == {"drawn"}
    assert waits[0] <= 2000  # the first may be lost
    assert waits == sorted(waits)
    assert 3 <= len(waits) <= 8  # each starts the page's run anew: one that takes longer than the rest comes to its end
    assert waits[-1] >= 30_000
    page.close()
