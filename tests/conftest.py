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
    *("cluster", "start_cluster", "shared_patient", "servers", "serving"),  # Redis and servers in many processes
    *("house", "live_run", "own_server", "plain_server", "up"),  # a server in a process of its own
    "start_ranks",
}
SLOW_FOLDERS = ("docs", "end_to_end", "packaging", "study")
SLOW_FILES = {
    *("test_fork.py", "test_lifecycle.py", "test_torch_stays_out.py"),  # interpreters of their own
    *("test_selection.py", "test_triton.py"),  # Triton's compiler and its interpreter
    *("test_lightning.py", "test_transformers.py"),  # importing either framework takes longer than its tests
    *("test_alert_rules.py", "test_encryption.py"),  # promtool, openssl
    *("test_api_quality_schema.py", "test_two_servers.py"),
}

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
    """Marks what `scripts/test --fast` leaves out.

    Slow is what uses a browser, Prometheus, a program that only root installs, or several processes. A single test
    that takes seconds for another reason carries the mark itself.
    """
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if (
            folder in SLOW_FOLDERS
            or item.path.name in SLOW_FILES
            or fixtures & SLOW_FIXTURES
            or (folder == "dashboard" and "server" in fixtures)
            or parameters.get("store_url") == "debian_redis"
        ):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
