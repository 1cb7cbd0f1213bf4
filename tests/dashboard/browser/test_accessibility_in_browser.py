"""The dashboard without a mouse, without sight, and on a phone: axe-core on every page, the way by keyboard alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from tests.support.browser import PATIENCE_MS, visiting
from tests.support.dashboard import OPERATOR

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.events import EventKind
from steadynorm_dashboard import launch

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.dashboard import ScriptedRun

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
# Charts are named and told in words outside of their drawing, which has thousands of nodes.
VIOLATIONS = """([within, options]) => axe.run({include: [within], exclude: [[".main-svg"]]}, options).then(
    ({violations}) => violations.map(({id, nodes}) => [id, nodes.map(({html, any}) => [html, any[0]?.message])]))"""
THEMES: dict[Literal["light", "dark"], tuple[str, dict[str, Any]]] = {
    "light": ("rgb(255, 255, 255)", {"resultTypes": ["violations"]}),
    "dark": ("rgb(16, 22, 28)", {"runOnly": ["color-contrast"]}),  # all that a theme changes
}
MAIN = "document.querySelector('[data-testid=stMain]')"


@pytest.fixture(scope="module")
def spiked(server: LocalStack, scripted_run: type[ScriptedRun]) -> ScriptedRun:
    """A run that spiked and was changed."""
    run = scripted_run(server, "spiked", steps=440, batch_id="shard-006/37", tags={"team": "speech"})
    server.client().change(run.run_id, {"gamma2": 0.99}, revision=0, reason="calmer")
    run.send(20)
    return run


@pytest.fixture(scope="module")
def training(server: LocalStack, scripted_run: type[ScriptedRun]) -> Iterator[ScriptedRun]:
    """A run that goes on."""
    with scripted_run(server, "training") as run:
        yield run


@pytest.fixture
def visit(server: LocalStack, regular: Visit) -> Iterator[Visit]:
    """A visitor of all of these tests, whose last page does not go on beside the next test."""
    yield regular
    regular.page.goto("about:blank")
    regular.page.emulate_media(color_scheme="light")


def violations(
    page: Page, within: str = "body", *, themes: Sequence[Literal["light", "dark"]] = ("light", "dark")
) -> Any:
    """What axe finds, by theme. Begins with the page's own: a browser draws all of a page again in another one."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    found = {}
    for theme in sorted(themes, key=lambda one: one != theme_of(page)):
        ground, options = THEMES[theme]
        page.emulate_media(color_scheme=theme)
        expect(page.get_by_test_id("stApp")).to_have_css("background-color", ground)
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while problems := page.evaluate(VIOLATIONS, [within, options]):
            if time.monotonic() > deadline:
                found[theme] = problems
                break
            page.wait_for_timeout(200)  # parts of the page follow the theme a moment later: what is wrong stays wrong
    return found


def theme_of(page: Page) -> Literal["light", "dark"]:
    """The theme in which the page is drawn."""
    return "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"


def tabs_of_a_run(page: Page, theme: Literal["light", "dark"], where: str = "") -> dict[str, Any]:
    """What axe finds in each tab of a run's page, by tab."""
    found = {}
    for tab in ("Changes", "Events", "Recovery", "Notes", "Automation", "Export"):
        page.get_by_role("tab", name=tab).click()
        # Only the open tab is drawn, once the server was asked for it.
        expect(page.get_by_role("tabpanel", name=tab)).to_contain_text(re.compile(r"\S"))
        expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
        found[f"{tab}, {theme}{where}"] = violations(page, ".st-key-run-tables", themes=[theme])
    return found


def test_axe_finds_nothing_on_any_page_in_either_theme(
    server: LocalStack, spiked: ScriptedRun, training: ScriptedRun, visit: Visit
) -> None:
    events = server.client().events(spiked.run_id).events
    spike = next(event.id for event in events if event.kind is EventKind.SPIKE)
    page, found = visit.page, {}
    page.goto(launch.link(server.dashboard))
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    found["sign in"] = violations(page)
    page.goto(launch.link(server.dashboard, token=OPERATOR))
    expect(page.locator(".steadynorm-fleet tbody tr")).to_have_count(2)
    found["fleet"] = violations(page)
    for query in (
        {"run": spiked.run_id},
        {"run": spiked.run_id, "parameter": "blocks.1.mlp.up.weight"},
        {"run": spiked.run_id, "incident": spike},
        {"run": spiked.run_id, "change": "1"},
        {"compare": f"{spiked.run_id},{training.run_id}"},
        {"runbook": "SteadynormThrottled", "run": spiked.run_id},
    ):
        page.goto(f"{server.dashboard}/?{urlencode({**query, 'token': OPERATOR})}")
        name = list(query)[-1] if "runbook" not in query else "runbook"
        if name == "runbook":
            expect(page.get_by_role("heading", name="SteadynormThrottled")).to_be_visible()
        else:
            visit.settle()
        found[name] = violations(page)
        if name == "run":
            for theme in sorted(THEMES, key=lambda one: one != theme_of(page)):
                found |= tabs_of_a_run(page, theme)
            page.set_viewport_size({"width": 390, "height": 844})
            found |= tabs_of_a_run(page, "light", " on a phone")
            page.set_viewport_size({"width": 1440, "height": 1000})
        # On each page: the way past its head, and one region that tells changes.
        target = page.locator("a.steadynorm-skip").get_attribute("href") or ""
        expect(page.locator(target)).to_have_count(1)
        expect(page.locator("[role=status][aria-live=polite]")).to_have_count(0 if name == "runbook" else 1)
    assert len(found) == 8 + 3 * 6
    assert {name: problems for name, problems in found.items() if problems} == {}


def tab_to(page: Page, wanted: Locator, most: int = 70) -> None:
    """Press Tab until `wanted` has the focus; no page may open meanwhile."""
    address = page.url
    for _ in range(most):
        page.keyboard.press("Tab")
        if wanted.count() and wanted.evaluate("node => node === document.activeElement"):
            return
        assert page.url.partition("#")[0] == address.partition("#")[0]
    pytest.fail(f"{wanted} is not reached by {most} presses of Tab")


def test_keys_alone_lead_from_the_fleet_to_an_applied_change_and_on_to_a_parameter(
    server: LocalStack, training: ScriptedRun, spiked: ScriptedRun, visit: Visit
) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, token=OPERATOR))
    expect(page.locator(".steadynorm-fleet tbody tr")).to_have_count(2)
    tab_to(page, page.locator(f".steadynorm-fleet a[data-run='{training.run_id}']"))
    page.keyboard.press("Enter")
    expect(page.locator(".steadynorm-chart svg").first).to_be_visible()
    # The focus was in the fleet's table, so that Tab may go on below the link, and reach it after the page's end.
    tab_to(page, page.get_by_role("link", name="Skip to the settings"), most=200)
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("spinbutton", name="gamma2"), most=15)
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("0.99")
    page.keyboard.press("Enter")
    apply = page.get_by_role("button", name="Apply", exact=True)
    expect(apply).to_be_enabled()
    tab_to(page, apply, most=20)
    page.keyboard.press("Enter")
    expect(page.get_by_text("applied @ step").first).to_be_visible()
    expect(page.locator("[role=status]", has_text="Change r1 is applied since step")).to_have_count(1)
    assert server.client().run(training.run_id).applied.settings.gamma2 == 0.99
    tab_to(page, page.get_by_role("table", name="Parameters").get_by_role("link").first)
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("table", name="Parameters").get_by_role("link").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("figure", name="Charts of the parameter")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query).keys() == {"run", "parameter"}


def test_charts_are_told_in_words(server: LocalStack, spiked: ScriptedRun, visit: Visit) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, spiked.run_id, OPERATOR))
    visit.settle()
    charts = page.get_by_role("figure", name="Charts of the run")
    expect(charts).to_have_accessible_description(
        re.compile(
            r"loss: newest [\d.]+, between .* 3 marked: spike\. 1 marked: small target\. 1 change of settings\.$"
        )
    )
    expect(page.get_by_role("figure", name="Map of layers")).to_have_accessible_description(
        re.compile(r"^12 rows\. Largest: blocks\..* × its baseline, from step \d+\.$")
    )
    page.set_viewport_size({"width": 1366, "height": 768})
    tops = "nodes => [...new Set(nodes.map(node => Math.round(node.getBoundingClientRect().top)))].length"
    assert page.get_by_test_id("stMetric").evaluate_all(tops) == 1
    assert page.evaluate(f"{MAIN}.scrollWidth <= {MAIN}.clientWidth")
    page.set_viewport_size({"width": 1440, "height": 1000})


def test_on_a_phone_a_swipe_over_the_charts_scrolls_and_what_acts_comes_first(
    server: LocalStack, spiked: ScriptedRun, browser: Browser
) -> None:
    with visiting(browser, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as phone:
        page = phone.page
        page.goto(launch.link(server.dashboard, spiked.run_id, OPERATOR))
        phone.settle()
        parts = [".st-key-numbers", *(f".st-key-run-{part}" for part in ("actions", "charts", "settings", "tables"))]
        tops = [page.locator(part).evaluate("node => node.getBoundingClientRect().top") for part in parts]
        assert tops == sorted(tops)
        assert page.evaluate(f"{MAIN}.scrollWidth <= {MAIN}.clientWidth")
        chart = page.locator(".steadynorm-chart").first
        chart.evaluate("node => node.scrollIntoView({block: 'start'})")
        before = page.evaluate(f"{MAIN}.scrollTop")
        ranges = "({_fullLayout: {xaxis, yaxis}}) => [...xaxis.range, ...yaxis.range]"
        drawn = chart.evaluate(ranges)
        touch = page.context.new_cdp_session(page)

        def swipe(x: int, y: int) -> None:
            point = {"x": 200, "y": 500}
            touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
            for part in range(1, 13):
                moved = {"x": 200 + x * part / 12, "y": 500 + y * part / 12}
                touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [moved]})
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        swipe(0, -240)
        page.wait_for_function(f"before => {MAIN}.scrollTop > before + 100", arg=before)
        swipe(150, 0)
        page.wait_for_timeout(200)  # in which it would have zoomed
        assert chart.evaluate(ranges) == drawn
