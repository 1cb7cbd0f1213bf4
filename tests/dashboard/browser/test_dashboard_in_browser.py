"""The dashboard in a real browser, over real server and dashboard processes and a run that goes on meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from playwright.sync_api import expect

from steadynorm_cli.local_stack import LocalStack
from steadynorm_dashboard import launch

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.dashboard import ScriptedRun

OPERATOR = "operator-token-for-tests"


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
    expect(gamma2).to_have_value("0.9995")  # from 0.995, the stop nearest to 0.994: 0.998, 0.999, 0.9995
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
