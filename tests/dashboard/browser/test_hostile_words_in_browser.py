"""Names, tags, reasons and messages that would be scripts, links, images or formulas: each page shows them as written.

Whoever holds an agent's token chooses them, and an operator's browser, which may change every run, draws them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Locator, expect

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.telemetry import Parameter, RunEnd
from steadynorm_dashboard import launch

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.dashboard import ScriptedRun

OPERATOR = "operator-token-for-tests"
SCRIPT = "<script>window.evil=1</script>"
IMAGE = "<img src=x onerror=window.evil=2>"
LINK = "[click](javascript:window.evil=3)"
STREAMLIT = ":red[alarm] :material/delete: $x^2$ :smile:"
BREAKOUT = "\"'></a><svg onload=window.evil=4>"
FOREIGN = "![a](http://evil.example/a.png) http://evil.example"
WORDS = (SCRIPT, IMAGE, LINK, STREAMLIT, BREAKOUT, FOREIGN)
NAMES = (f"{IMAGE}{LINK}", f"{STREAMLIT}{SCRIPT}")
"""Of the two runs."""

UNWANTED = """() => [
    ...document.querySelectorAll('[onerror], [onload]:not(link):not(script), .katex, [href^="javascript:" i]'),
    ...[...document.querySelectorAll('[src], [href]')].filter(node => /evil/.test(node.src || node.href)
        && !node.href?.startsWith(location.origin + '/?')),
    ...[...document.querySelectorAll('script')].filter(node => /evil/.test(node.textContent)),
].map(node => node.outerHTML.slice(0, 200))"""
"""What a page may not hold: whatever runs, leads elsewhere or is a formula. Links between our pages hold names."""


@dataclass(frozen=True)
class Hostile:
    """Two runs whose every word is hostile, and the addresses of what belongs to them."""

    first: str
    second: str
    incident: str


@pytest.fixture(scope="module")
def hostile(server: LocalStack, scripted_run: type[ScriptedRun]) -> Hostile:
    """One that was changed and goes on, and one that refused a change and failed."""
    table = [Parameter(name, (4, 4), f"float{SCRIPT}"[:40]) for name in (*WORDS, "".join(WORDS))]
    said: dict[str, Any] = {
        "host": IMAGE,
        "framework": SCRIPT,
        "tags": {LINK: IMAGE, SCRIPT: STREAMLIT, "team": BREAKOUT},
    }
    one = scripted_run(server, NAMES[0], steps=130, parameters=table, batch_id=SCRIPT + FOREIGN, **said)
    client = server.client()
    client.change(one.run_id, {"gamma2": 0.99}, revision=0, reason=IMAGE + LINK + STREAMLIT)
    one.send(10)
    two = scripted_run(server, NAMES[1], steps=40, parameters=table, **said)
    two.refuses = IMAGE + FOREIGN
    client.change(two.run_id, {"gamma1": 0.7}, revision=0, reason=BREAKOUT + FOREIGN)
    two.send(1)
    two.finish(RunEnd.FAILED, SCRIPT + LINK)
    spike = next(event for event in client.events(one.run_id).events if event.kind == "spike")
    return Hostile(one.run_id, two.run_id, spike.id)


@pytest.fixture
def visit(server: LocalStack, regular: Visit) -> Visit:
    """A visitor who leaves before the server does."""
    return regular


def written(words: str) -> re.Pattern[str]:
    """`words` as a page may show them: what Markdown would make something of is taken apart by what nobody sees."""
    return re.compile("\u2060?".join(re.escape(letter).replace("/", r"\/") for letter in words))


def harmless(visit: Visit, *shown: Locator) -> None:
    """The page is drawn, shows these, and nothing in it ran or leads elsewhere."""
    for locator in shown:  # a table's cells are there for screen readers too, where nobody sees them
        expect(locator.filter(visible=True).first).to_be_visible()
    visit.page.wait_for_load_state("networkidle")
    expect(visit.page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    assert visit.page.evaluate(UNWANTED) == []
    assert visit.page.evaluate("window.evil") is None
    assert visit.complaints == []
    assert visit.hosts == {"127.0.0.1"}


def test_in_the_fleet(visit: Visit, server: LocalStack, hostile: Hostile) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, token=OPERATOR))
    fleet = page.locator(".steadynorm-fleet")
    harmless(
        visit,
        *(page.get_by_role("link", name=name, exact=True) for name in NAMES),
        fleet.get_by_text(f"{LINK}={IMAGE}"[:30]),
        fleet.get_by_title(BREAKOUT),
    )
    page.get_by_role("combobox", name="Tags").click()
    harmless(visit, page.get_by_role("option").get_by_text(f"team={BREAKOUT}", exact=True))
    page.keyboard.press("Escape")


def test_on_the_page_of_a_run(visit: Visit, server: LocalStack, hostile: Hostile) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, hostile.first, OPERATOR))
    harmless(
        visit,
        page.get_by_role("heading", name=written(NAMES[0])),
        page.get_by_text(written(f"on {IMAGE}")),
        page.get_by_text(written(f"team={BREAKOUT}")),
        page.get_by_text(written(IMAGE + LINK + STREAMLIT)),
        page.locator(".steadynorm-chart svg"),
    )
    for tab in ("Changes", "Events"):
        page.get_by_role("tab", name=tab).click()
        harmless(visit, page.get_by_role("table", name=tab))


def test_on_the_page_of_a_run_that_refused_a_change_and_failed(
    visit: Visit, server: LocalStack, hostile: Hostile
) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, hostile.second, OPERATOR))
    harmless(
        visit,
        page.get_by_role("heading", name=written(NAMES[1])),
        page.get_by_text(written(f"rejected: {IMAGE}")),
        page.get_by_text(written(SCRIPT + LINK)),
        page.get_by_text(written(BREAKOUT)),
    )


def test_on_the_page_of_a_parameter(visit: Visit, server: LocalStack, hostile: Hostile) -> None:
    page, name = visit.page, "".join(WORDS)
    page.goto(launch.link(server.dashboard, hostile.first, OPERATOR) + f"&{urlencode({'parameter': name})}")
    harmless(visit, page.get_by_role("heading", name=written(name)), page.locator(".steadynorm-chart svg"))


def test_on_the_page_of_an_incident_and_under_the_pointer(visit: Visit, server: LocalStack, hostile: Hostile) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, hostile.first, OPERATOR) + f"&{urlencode({'incident': hostile.incident})}")
    plot = page.locator(".steadynorm-chart").nth(1).locator(".nsewdrag").first
    harmless(visit, page.get_by_text(SCRIPT + FOREIGN, exact=True), plot)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    for at, word in enumerate(WORDS[:4]):
        plot.hover(position={"x": box["width"] / 3, "y": box["height"] * (at + 0.5) / (len(WORDS) + 1)})
        harmless(visit, page.locator(".hoverlayer .hovertext").filter(has_text=word))


def test_on_the_page_of_a_change(visit: Visit, server: LocalStack, hostile: Hostile) -> None:
    page = visit.page
    page.goto(launch.link(server.dashboard, hostile.first, OPERATOR) + f"&{urlencode({'change': '1'})}")
    harmless(visit, page.get_by_text(written(IMAGE + LINK + STREAMLIT)), page.locator(".steadynorm-chart svg"))


def test_where_two_runs_are_compared(visit: Visit, server: LocalStack, hostile: Hostile) -> None:
    page, both = visit.page, urlencode({"compare": f"{hostile.first},{hostile.second}"})
    page.goto(launch.link(server.dashboard, token=OPERATOR) + f"&{both}")
    harmless(
        visit,
        *(page.get_by_role("link", name=written(name[:40])) for name in NAMES),
        *(page.locator(".steadynorm-chart .legendtext").filter(has_text=name[:40]) for name in NAMES),
    )


def test_addresses_that_name_nothing_are_told_as_written(visit: Visit, server: LocalStack, hostile: Hostile) -> None:
    page = visit.page
    for what in ({"parameter": IMAGE + SCRIPT}, {"incident": SCRIPT}, {"change": STREAMLIT}):
        page.goto(launch.link(server.dashboard, hostile.first, OPERATOR) + f"&{urlencode(what)}")
        harmless(visit, page.get_by_role("alert"))
    page.goto(launch.link(server.dashboard, token=OPERATOR) + f"&{urlencode({'compare': IMAGE})}")
    harmless(visit, page.get_by_role("alert").get_by_text(written(IMAGE)))
