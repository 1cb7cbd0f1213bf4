"""What all tests share: the rule that nothing may be skipped, and a real house to test against."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from steadynorm_contract.client import Client
from steadynorm_server.up import House

ROOT = Path(__file__).parents[1]


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
    """A server, perhaps with a dashboard, in processes of their own on free loopback ports."""

    home: Path
    server: str
    token: str
    client: Client
    dashboard: str
    environment: dict[str, str]
    """Variables for processes that shall find this house as a user's tools do."""


def clean_environment(home: Path) -> dict[str, str]:
    """This process's variables without those that would point to another house or store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    kept.pop("REDIS_URL", None)
    return {**kept, "STEADYNORM_HOME": str(home)}


@contextmanager
def start_house(home: Path, *, dashboard: bool) -> Iterator[RunningHouse]:
    """A house in `home`, ended at the end."""
    environment = clean_environment(home)
    with House(home, port=0, dashboard_port=0, dashboard=dashboard, environ=environment) as house:
        token = (home / "token").read_text("ascii").strip()
        yield RunningHouse(home, house.server, token, Client(house.server, token), house.dashboard, environment)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHouse]:
    """A server with its own embedded store, for the whole session. Runs of all tests that use it are in it."""
    with start_house(tmp_path_factory.mktemp("house"), dashboard=False) as running:
        yield running


@pytest.fixture(scope="session")
def house_with_dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHouse]:
    """The same with a dashboard, for browser tests."""
    with start_house(tmp_path_factory.mktemp("house_with_dashboard"), dashboard=True) as running:
        yield running


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def steadynorm_command() -> list[str]:
    """The command line of this environment."""
    return [sys.executable, "-m", "steadynorm_server"]
