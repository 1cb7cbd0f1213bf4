"""What all tests share: none may be skipped, which of them are slow, and the fixtures of `tests/support`."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.support.local_server",
    "tests.support.waiting",
    "tests.support.browser",
    "tests.support.jobs",
    "tests.support.commands",
]

ROOT = Path(__file__).parents[1]
SLOW_FIXTURES = {
    *("browser", "prometheus"),  # programs of the system
    *("cluster", "start_cluster", "shared_patient", "serving"),  # stores and servers in many processes
    *("house", "server", "plain_server", "own_server", "up"),  # a server in a process of its own
    *("start_ranks", "live_run"),
}
SLOW_FOLDERS = ("end_to_end", "packaging", "study")

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what `scripts/test --fast` leaves out, and puts it first: the quick tests fill the gaps at the end.

    Slow is what uses a browser, Prometheus, a program that only root installs, or several processes. A single test
    that takes seconds for another reason carries the mark itself.
    """
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        store = (
            item.callspec.params.get("store_url")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        fixtures = set(getattr(item, "fixturenames", ()))
        if folder in SLOW_FOLDERS or fixtures & SLOW_FIXTURES or store == "debian_redis":
            item.add_marker("slow")
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
