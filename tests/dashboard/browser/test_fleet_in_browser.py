"""The fleet of two hundred runs in a real browser: there at once, led by keys, and quiet while it lives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from steadynorm_cli.local_stack import LocalStack
from steadynorm_dashboard import launch

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.dashboard import ScriptedRun

OPERATOR, VIEWER = "operator-token-for-tests", "viewer-token-for-tests"
RUNS = 200


@pytest.fixture(scope="module")
def runs(server: LocalStack, scripted_run: type[ScriptedRun]) -> list[ScriptedRun]:
    """RUNS runs in all, oldest first; every third ended, the one before the last spiked."""
    made: list[ScriptedRun] = []
    for at in range(RUNS - 2):
        made.append(scripted_run(server, f"run-{at:03d}", steps=20, tags={"team": ("speech", "vision")[at % 2]}))
        if at % 3 == 0:
            made[-1].finish()
    made += [scripted_run(server, "spiked", steps=125), scripted_run(server, "calm", steps=20)]
    return made


@pytest.fixture
def page(server: LocalStack, runs: list[ScriptedRun], regular: Visit) -> Page:
    """The fleet, drawn, and anew unless the test before left it as it had found it."""
    if not regular.as_found:
        regular.page.goto(launch.link(server.dashboard, token=OPERATOR) + "&show=all")
    regular.as_found = False
    expect(regular.page.locator(".steadynorm-fleet tbody tr")).to_have_count(RUNS)
    return regular.page


def first(page: Page) -> Locator:
    return page.locator(".steadynorm-fleet tbody a").first


def row(page: Page, name: str) -> Locator:
    return page.locator(".steadynorm-fleet tbody tr", has=page.get_by_role("link", name=name, exact=True))


def shows_list(page: Page, count: int) -> None:
    """A whole page: one that is left while it is being drawn may write its address over that of the next."""
    expect(page.locator(".steadynorm-fleet tbody tr")).to_have_count(count)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def shows_run(page: Page, name: str | None) -> None:
    """A whole page, of which nothing is left over from the list before it."""
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    expect(page.locator(".steadynorm-fleet tbody tr")).to_have_count(0)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


def test_two_hundred_runs_are_there_at_once_with_the_one_in_trouble_on_top(
    server: LocalStack, page: Page, regular: Visit, record_property: Any
) -> None:
    began = time.monotonic()
    page.goto(launch.link(server.dashboard, token=OPERATOR) + "&show=all")
    expect(page.locator(".steadynorm-fleet tbody tr")).to_have_count(RUNS)
    record_property("first_table_s", round(time.monotonic() - began, 2))
    assert time.monotonic() - began < 15  # on a machine that does much else; alone it takes a second or two
    expect(first(page)).to_have_text("spiked")
    top = row(page, "spiked")
    expect(top.get_by_text("spiking")).to_be_visible()
    for name in ("loss", "raw norm"):
        expect(top.get_by_role("img", name=name)).to_have_count(1)
    expect(page.locator(".steadynorm-fleet td.norm path:not(.band)[d^='M']")).to_have_count(RUNS)
    regular.as_found = True


def test_keys_lead_to_a_run_and_the_way_back_to_the_same_list(
    page: Page, runs: list[ScriptedRun], regular: Visit
) -> None:
    page.get_by_role("textbox", name="Search").fill("vision")
    page.keyboard.press("Enter")
    expect(page.locator(".steadynorm-fleet tbody tr")).to_have_count((RUNS - 2) // 2)
    first(page).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("ArrowUp")
    second = page.locator(".steadynorm-fleet tbody a").nth(1)
    expect(second).to_be_focused()
    name = second.text_content()
    listed = parse_qs(urlsplit(page.url).query)
    assert listed == {"show": ["all"], "search": ["vision"]}
    expect(page).to_have_title("⚡ Runs · 1 spiking – steadynorm")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    assert parse_qs(urlsplit(page.url).query)["run"][0] in {run.run_id for run in runs}
    expect(page).to_have_title(f"{name} · calm – steadynorm")
    assert (page.locator("link[rel~=icon]").get_attribute("href") or "").startswith("data:image/svg+xml")
    page.get_by_role("link", name="Runs overview").click()
    for _ in range(2):
        shows_list(page, (RUNS - 2) // 2)
        expect(page.get_by_role("textbox", name="Search")).to_have_value("vision")
        assert parse_qs(urlsplit(page.url).query) == listed
        page.go_back()
        shows_run(page, name)
        page.go_forward()
    shows_list(page, (RUNS - 2) // 2)
    page.go_back()
    shows_run(page, name)
    page.go_back()
    shows_list(page, (RUNS - 2) // 2)
    page.go_back()  # to before the search
    shows_list(page, RUNS)
    expect(page.get_by_role("textbox", name="Search")).to_have_value("")
    regular.as_found = True


def test_titles_sort_there_and_back(page: Page) -> None:
    page.get_by_role("columnheader", name="run", exact=True).get_by_role("button").click()
    expect(first(page)).to_have_text("calm")
    expect(page.get_by_role("columnheader", name="run ↑")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name="run ↑").click()
    expect(first(page)).to_have_text("spiked")
    page.get_by_role("button", name="health").click()
    expect(page.get_by_role("columnheader", name="health ↑")).to_have_attribute("aria-sort", "ascending")


def test_new_data_changes_a_number_and_moves_nothing(page: Page, runs: list[ScriptedRun]) -> None:
    link = page.get_by_role("link", name="run-100", exact=True)
    link.scroll_into_view_if_needed()
    link.focus()
    node = link.element_handle()
    where = "node => [node.getBoundingClientRect().top, node.isConnected, document.activeElement === node]"
    before = page.evaluate(where, node)
    calm = row(page, "calm")
    expect(calm.locator("td.step")).to_have_text("19")
    # It spikes, and would go to the top; somebody is reading the list.
    runs[-1].send(105)
    expect(calm.get_by_text("spiking")).to_have_count(1)
    expect(calm.locator("td.step")).to_have_text("124")
    assert page.evaluate(where, node) == before
    expect(first(page)).to_have_text("spiked")
    page.mouse.move(5, 5)
    link.blur()
    expect(first(page)).to_have_text("calm")


def test_on_a_laptop_every_column_is_within_reach_and_the_titles_stay(page: Page) -> None:
    sheet = page.locator(".steadynorm-fleet .sheet")
    last = page.get_by_role("columnheader", name="last seen")
    for width in (1024, 1320, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.get_by_test_id("stMain").evaluate("one => one.scrollWidth <= one.clientWidth")
        sheet.evaluate("one => one.scrollTo(one.scrollWidth, 3000)")
        expect(last).to_be_in_viewport(ratio=1)  # though its place is far above
        box = sheet.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800  # its scroll bar is in sight


def test_chosen_runs_are_compared(page: Page, runs: list[ScriptedRun]) -> None:
    page.get_by_role("checkbox", name="Select spiked").check()
    compare = page.get_by_role("button", name="Compare", exact=True)
    expect(compare).to_be_disabled()
    page.get_by_role("checkbox", name="Select calm").check()
    expect(page.get_by_text("2 runs selected")).to_be_visible()
    page.get_by_role("button", name="Archive", exact=True).click()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("button", name="Archive now")).to_have_count(0)
    expect(page.get_by_text("2 runs selected")).to_be_visible()  # nothing was done, so nothing has to be chosen again
    page.get_by_role("checkbox", name="Select spiked").uncheck()
    page.get_by_role("button", name="Rename", exact=True).click()
    page.get_by_role("textbox", name="New name").fill("calmer")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Rename now").click()
    expect(page.get_by_text("calmer renamed")).to_be_visible()
    expect(page.get_by_role("checkbox", name="Select calmer")).not_to_be_checked()  # done: no longer what is meant next
    expect(compare).to_be_hidden()
    page.get_by_role("checkbox", name="Select calmer").check()  # and stays so through the next refreshes
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("checkbox", name="Select calm", exact=True)).not_to_be_checked()
    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("checkbox", name="Select spiked").check()
    page.get_by_role("checkbox", name="Select calm", exact=True).check()
    compare.click()
    expect(page.get_by_role("heading", name="Comparing runs")).to_be_visible()
    asked = parse_qs(urlsplit(page.url).query)["compare"][0].split(",")
    assert set(asked) == {runs[-1].run_id, runs[-2].run_id}


def test_a_viewer_finds_every_control_locked_and_reads_why(
    server: LocalStack, runs: list[ScriptedRun], regular: Visit
) -> None:
    page = regular.page
    page.goto(launch.link(server.dashboard, runs[-1].run_id, VIEWER))
    regular.settle()
    expect(page.get_by_text("You are signed in as viewer, which has read-only access.").first).to_be_visible()
    for control in (
        *(page.get_by_role("spinbutton", name=name, exact=True) for name in ("gamma1", "gamma2")),
        *(page.get_by_role("button", name=name, exact=True) for name in ("Apply", "Reset")),
        page.get_by_label("Reason"),
    ):
        expect(control).to_be_disabled()
    page.get_by_role("button", name="viewer").click()
    expect(page.get_by_text("Changing settings requires an operator token.")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
