"""What all tests share: nothing may be skipped, and the fixtures of `tests/support`."""

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


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
