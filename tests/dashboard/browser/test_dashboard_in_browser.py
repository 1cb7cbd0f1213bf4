"""The dashboard in a real browser, over real server and dashboard processes and a run that goes on meanwhile."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import urllib3
from playwright.sync_api import Browser, expect

from steadynorm_cli.local_stack import LocalStack
from steadynorm_dashboard import launch
from steadynorm_dashboard.components import plotly_bundle

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.dashboard import ScriptedRun, StartRun

OPERATOR = "operator-token-for-tests"


@pytest.fixture
def visit(server: LocalStack, regular: Visit) -> Iterator[Visit]:
    """A visitor of all of these tests, whose last page does not go on beside the next test."""
    yield regular
    regular.page.goto("about:blank")


def test_an_operator_opens_a_run_changes_gamma2_and_reads_when_it_was_applied(
    visit: Visit, server: LocalStack, live_run: ScriptedRun
) -> None:
    page = visit.page
    live_run.follows.clear()
    page.goto(launch.link(server.dashboard, token=OPERATOR))
    page.get_by_role("link", name="<img src=x onerror=alert(1)>").first.click()
    expect(page.get_by_role("heading", name="<img src=x onerror=alert(1)>")).to_be_visible()
    visit.settle()
    assert OPERATOR not in page.url

    gamma2 = page.get_by_role("spinbutton", name="gamma2")
    gamma2.fill("0.99")
    gamma2.press("Enter")
    expect(page.get_by_text("12.65 → 4", exact=True)).to_be_visible()
    page.get_by_label("Reason").fill("<b>tried</b> in a browser")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_text("pending").first).to_be_visible()
    assert page.get_by_text("applied @ step").count() == 0

    live_run.follows.set()
    applied = page.get_by_text("applied @ step").first
    expect(applied).to_be_visible()
    now = server.client().run(live_run.run_id).applied
    assert (now.revision, now.settings.gamma2) == (1, 0.99)
    expect(applied).to_contain_text(f"applied @ step {now.step}")
    expect(page.locator(".steadynorm-chart").get_by_text(f"r1 @ step {now.step}", exact=True)).to_be_visible()
    expect(page.get_by_text("<b>tried</b> in a browser").first).to_be_visible()
    assert page.locator("img[src='x']").count() == 0


def test_a_slider_moves_the_number_and_the_ceiling(visit: Visit, server: LocalStack, live_run: ScriptedRun) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, live_run.run_id, OPERATOR))
    slider = page.get_by_role("slider", name="gamma2 slider")
    visit.settle()
    slider.focus()
    expect(slider).to_be_focused()
    slider.press("ArrowLeft")
    expect(page.get_by_role("spinbutton", name="gamma2")).to_have_value("0.998")
    expect(page.get_by_text("half-life 346 steps")).to_be_visible()
    expect(page.get_by_text("12.65 → 8.944", exact=True)).to_be_visible()


def test_what_is_typed_and_clicked_stays_however_fast(visit: Visit, server: LocalStack, live_run: ScriptedRun) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, live_run.run_id, OPERATOR))
    visit.settle()
    gamma2 = page.get_by_role("spinbutton", name="gamma2")
    gamma2.fill("0.9973")  # lies between two stops of the slider
    gamma2.press("Enter")
    expect(page.get_by_text("gamma2: 0.999 → 0.9973", exact=True)).to_be_visible()
    gamma2.fill("0.999")
    gamma2.press("Enter")
    expect(page.get_by_text("No changes to apply.", exact=True)).to_be_visible()
    less = page.get_by_test_id("stNumberInput").filter(has=gamma2).get_by_test_id("stNumberInputStepDown")
    for _ in range(5):
        less.click(delay=100)
        page.wait_for_timeout(100)  # a hand's pace: each click's answer is under way while the next one comes
    expect(page.get_by_text("gamma2: 0.999 → 0.994", exact=True)).to_be_visible()
    visit.settle()
    expect(gamma2).to_have_value("0.994")
    slider = page.get_by_role("slider", name="gamma2 slider")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowRight")
    expect(gamma2).to_have_value("0.999")  # from 0.994 itself: 0.995, 0.998, 0.999
    expect(slider).to_be_focused()


def test_a_zoom_outlives_the_next_refresh(visit: Visit, server: LocalStack, live_run: ScriptedRun) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, live_run.run_id, OPERATOR))
    chart = page.locator(".steadynorm-chart").first
    expect(chart.locator("svg").first).to_be_visible()
    box = chart.bounding_box()
    assert box is not None
    middle, height = box["x"] + box["width"] / 2, box["y"] + 150
    page.mouse.move(middle - 100, height)
    page.mouse.down()
    page.mouse.move(middle + 100, height, steps=5)
    page.mouse.up()
    node = chart.element_handle()
    page.wait_for_function("node => node._fullLayout.xaxis.autorange === false", arg=node)
    zoomed = page.evaluate("node => node._fullLayout.xaxis.range", node)
    expect(page.get_by_text("at full resolution")).to_be_visible()
    step = page.get_by_test_id("stMetricValue").first
    seen = step.inner_text()
    expect(step).not_to_have_text(seen)
    assert page.evaluate("node => node._fullLayout.xaxis.range", node) == zoomed


def test_the_way_back_leads_to_the_list(visit: Visit, server: LocalStack, live_run: ScriptedRun) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, live_run.run_id, OPERATOR))
    page.get_by_role("link", name="Runs overview").click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    assert urlsplit(page.url).query == ""
    page.go_back()
    expect(page.get_by_role("heading", name="<img src=x onerror=alert(1)>")).to_be_visible()
    assert urlsplit(page.url).query == f"run={live_run.run_id}"


def test_from_the_fleet_to_a_run_that_is_no_longer_throttled_in_three_clicks(
    visit: Visit, server: LocalStack, start_run: StartRun, record_property: Any
) -> None:
    run = start_run("on call", steps=430, batch_id="shard-006/37")  # it spiked at 420 and before
    page = visit.page
    page.goto(launch.link(server.dashboard, token=OPERATOR))
    link = page.locator(".steadynorm-fleet tbody").get_by_role("link", name="on call", exact=True)
    expect(link).to_be_visible()
    began = time.monotonic()
    link.click()  # 1
    expect(
        page.get_by_text(re.compile(r"updates are [\d.]+ times too small, for about [\d,]+ more steps"))
    ).to_be_visible()
    page.get_by_role("button", name="Reset statistics").first.click()  # 2
    expect(page.get_by_text("Throttling ends at once").first).to_be_visible()
    page.get_by_role("button", name="Reset statistics now").first.click()  # 3
    expect(page.get_by_text("statistics reset").first).to_be_visible()
    run.send(5)  # it reads the change here,
    run.send(125)  # and is calm: no spike for 100 steps, and none in the statistics
    expect(page.get_by_text(re.compile("Calm.*: last spike"))).to_be_visible()
    record_property("seconds", round(time.monotonic() - began, 1))
    expect(page.get_by_text("times too small")).to_have_count(0)
    assert server.client().run(run.run_id).applied.settings.reset_generation == 1


@pytest.fixture
def evil(server: LocalStack, tmp_path: Path) -> Iterator[str]:
    """Address of a page of another origin that shows the dashboard in a frame."""
    (tmp_path / "index.html").write_text(f"<iframe src='{launch.link(server.dashboard)}'></iframe>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.005,))
        thread.start()
        yield f"http://localhost:{site.server_port}/"
        site.shutdown()
        thread.join()


def test_no_other_page_can_show_the_dashboard_in_a_frame(browser: Browser, evil: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        with page.expect_console_message(lambda message: "frame-ancestors 'none'" in message.text):
            page.goto(evil)
        assert page.frames[-1] != page.main_frame
        page.frames[-1].wait_for_url(re.compile("^chrome-error:"), wait_until="commit")


def test_every_answer_has_security_headers(server: LocalStack) -> None:
    base = server.dashboard.rstrip("/")
    for path in ("/", "/_stcore/health", "/no-such-file.js", f"/{plotly_bundle.ADDRESS}"):
        for _ in range(2):  # the second one of a file is from memory
            headers = urllib3.request("GET", base + path).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"], path
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
