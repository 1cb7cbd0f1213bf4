"""What all tests share: nothing may be skipped; a real house to test against, a job that trains, and a browser."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

from steadynorm_cli.local_stack import House
from steadynorm_contract.client import Client

ROOT = Path(__file__).parents[1]

# A machine that stands still for a moment is no finding.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test fails: scripts/test installs all that the tests need, so a skip is a test that does not run."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and no test may be: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, and no test may be: {report.longrepr}"
    return report


@dataclass
class RunningHouse:
    """A server in a process of its own, on a free loopback port."""

    home: Path
    server: str
    token: str
    client: Client
    environment: dict[str, str]
    """Variables for processes that shall find this house as a user's tools do."""


def clean_environment(home: Path) -> dict[str, str]:
    """This process's variables without those that would point to another house or store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    kept.pop("REDIS_URL", None)
    return {**kept, "STEADYNORM_HOME": str(home)}


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHouse]:
    """A server with its own embedded store, for the whole session. Runs of all tests that use it are in it."""
    home = tmp_path_factory.mktemp("house")
    environment = clean_environment(home)
    with House(home, port=0, dashboard=False, environ=environment) as running:
        token = (home / "token").read_text("ascii").strip()
        yield RunningHouse(home, running.server, token, Client(running.server, token), environment)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


T = TypeVar("T")


class Eventually(Protocol):
    """Type of the fixture `eventually`."""

    def __call__(self, look: Callable[[], T], *, within_s: float = 60.0) -> T: ...


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """eventually(look) -> the first true value of look(), which is asked again and again. Fails after `within_s`."""

    def wait(look: Callable[[], T], *, within_s: float = 60.0) -> T:
        deadline = time.monotonic() + within_s
        while not (value := look()):
            assert time.monotonic() < deadline, f"still {value!r} after {within_s:g} s"
            time.sleep(0.05)
        return value

    return wait


class Job:
    """A small real training: a thread that steps a tiny model under the agent until it is told to stop."""

    def __init__(self, house: RunningHouse, name: str, **options: Any) -> None:
        import torch

        import steadynorm

        torch.manual_seed(0)
        self._model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3)
        self.agent = steadynorm.attach(
            self._model, self._optimizer, run=name, server=house.server, token=house.token, **options
        )
        self.spike = threading.Event()
        """Set: the next step's gradients are a million times larger."""
        self.poison = threading.Event()
        """Set: the next step's gradients are NaN."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._train, name=f"job {name}")
        self._thread.start()

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.agent.run_id

    def end(self) -> None:
        """Stop training and finish the run."""
        self._ending.set()
        self._thread.join()
        self.agent.flush(20.0)  # close() waits for 1.5 s, which this machine may stand still for
        self.agent.close()

    def _train(self) -> None:
        import torch

        while not self._ending.wait(0.01):  # about a hundred steps a second: a pace, not a wait for something
            loss = self._model(torch.randn(32, 8)).square().mean()
            self._optimizer.zero_grad()
            loss.backward()
            for event, factor in ((self.spike, 1e6), (self.poison, float("nan"))):
                if event.is_set():
                    event.clear()
                    for parameter in self._model.parameters():
                        assert parameter.grad is not None
                        parameter.grad.mul_(factor)
            self._optimizer.step()
            self.agent.log(loss=loss)


class RunJob(Protocol):
    """Type of the fixture `run_job`."""

    def __call__(self, house: RunningHouse, name: str, **options: Any) -> AbstractContextManager[Job]: ...


class StartJob(Protocol):
    """Type of the fixture `start_job`."""

    def __call__(self, house: RunningHouse, name: str, **options: Any) -> Job: ...


@pytest.fixture(scope="session")
def run_job() -> RunJob:
    """run_job(house, "name", **options of attach): a Job for as long as the block runs."""

    @contextmanager
    def run(house: RunningHouse, name: str, **options: Any) -> Iterator[Job]:
        job = Job(house, name, **options)
        try:
            yield job
        finally:
            job.end()

    return run


@pytest.fixture
def start_job(run_job: RunJob) -> Iterator[StartJob]:
    """start_job(house, "name", **options of attach) -> a Job, ended with the test."""
    with ExitStack() as jobs:
        yield lambda house, name, **options: jobs.enter_context(run_job(house, name, **options))


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
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.on("dialog", self._dismiss)

    def settle(self) -> None:
        """Until the run's page stands still: what is typed while it is being built is lost."""
        expect(self.page.locator(".steadynorm-chart svg").first).to_be_visible()  # the last part that it draws
        expect(self.page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss"):
            self.hosts.add(parts.hostname)


@contextmanager
def visiting(browser: Browser) -> Iterator[Visit]:
    """A visitor, who at the end met no error in the console and no foreign host."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
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
