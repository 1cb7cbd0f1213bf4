"""Debian's Chromium, and visitors who report every error that they meet."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Dialog, Error, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Not for the session: Playwright keeps an event loop running, beside which no other can."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


class Visit:
    """A page, and what went wrong on it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.hosts: set[str | None] = set()
        self.as_found = False
        """Whether a test left the page as it had found it, as its last line says: the next one goes on there."""
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.on("dialog", self._dismiss)

    def settle(self) -> None:
        """Until the run's page stands still: what is typed while it is being built is lost."""
        expect(self.page.locator(".steadynorm-chart svg").first).to_be_visible()
        expect(self.page.locator(".steadynorm-later")).to_have_count(0)  # what comes after the first chart
        expect(self.page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")

    def open_run(self, name: str) -> None:
        """From the runs overview, by its search: hundreds of runs in trouble come before a calm one."""
        search = self.page.get_by_role("textbox", name="Search")
        search.fill(name)
        search.press("Enter")
        self.page.get_by_role("link", name=name, exact=True).first.click()

    def words(self) -> str:
        """What stands on the page, and where it is: what a failed test shows of it."""
        try:
            return f"{self.page.url}\n{self.page.locator('body').inner_text(timeout=5_000)}"
        except Error as error:
            return f"{self.page.url}\n{error}"

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss"):
            self.hosts.add(parts.hostname)


@contextmanager
def visiting(browser: Browser, **device: Any) -> Iterator[Visit]:
    """A visitor, who at the end met no error in the console and no foreign host. device: arguments of `new_context`.

    Asks for reduced motion: without a GPU, two cores draw little else than Streamlit's animations of what still loads.
    """
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}, "reduced_motion": "reduce", **device})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    visitor = Visit(context.new_page())
    yield visitor
    context.close()
    assert visitor.complaints == []
    assert visitor.hosts == {"127.0.0.1"}


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A visitor of one test, see `visiting`."""
    with visiting(browser) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def regular(browser: Browser) -> Iterator[Visit]:
    """A visitor of all tests of a file, whose browser has loaded the dashboard's own files already; see `visiting`."""
    with visiting(browser) as visitor:
        yield visitor


class Enter(Protocol):
    """Type of the fixture `enter`."""

    def __call__(self) -> Visit: ...


@pytest.fixture
def enter(browser: Browser) -> Iterator[Enter]:
    """enter() -> one more visitor of the test, in a browser session of their own; see `visiting`."""
    with ExitStack() as visitors:
        yield lambda: visitors.enter_context(visiting(browser))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what stood on its pages: a wait that ended in vain says nothing of it."""
    report = yield
    if report.failed and report.when == "call":
        visits = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Visit)]
        report.sections += [("page", visit.words()) for visit in visits]
    return report
