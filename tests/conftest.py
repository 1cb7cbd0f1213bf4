"""What all tests share: none may be skipped, which of them are slow, and the fixtures of `tests/support`."""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.support.local_server",
    "tests.support.waiting",
    "tests.support.browser",
    "tests.support.jobs",
    "tests.support.interpreter",
    "tests.support.commands",
    "tests.support.serial",
]

ROOT = Path(__file__).parents[1]
SLOW_FIXTURES = {
    *("browser", "prometheus"),  # programs of the system
    *("cluster", "start_cluster", "shared_patient", "servers", "serving"),  # Redis and servers in many processes
    *("stack", "live_run", "own_server", "up"),  # a server in a process of its own
    "start_ranks",
}
SLOW_FOLDERS = (("docs",), ("end_to_end",), ("packaging",), ("study",))
SLOW_FILES = {
    *("test_fork.py", "test_lifecycle.py", "test_torch_stays_out.py"),  # interpreters of their own
    *("test_dependencies.py", "test_launch.py"),
    *("test_serve.py", "test_serve_in_time.py", "test_backup.py", "test_durability.py"),  # servers of their own
    *("test_selection.py", "test_triton.py"),  # Triton's compiler and its interpreter
    *("test_lightning.py", "test_transformers.py"),  # importing either framework takes longer than its tests
    *("test_alert_rules.py", "test_encryption.py", "test_tls.py", "test_proxies.py"),  # promtool, openssl, nginx
    *("test_api_quality_schema.py", "test_two_servers.py", "test_workers.py"),  # several server processes
}

LONGEST = {
    "test_study.py",
    "test_accessibility_in_browser.py",
    "test_demo.py",
    "test_ranks.py",
}  # half a minute and more
LONG = {
    *("test_publisher.py", "test_rollback.py", "test_main.py"),
    *("test_limits.py", "test_webhooks.py", "test_serve.py"),
}  # the longest of the fast lane

# Models of tests are too small for two threads, which spin while they wait for each other. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A machine that stands still for a moment is no finding. Tests that draw more examples draw a multiple of these. New
# examples are drawn where people can look at what they find: CI draws the same ones each time.
settings.register_profile("whole", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("fast", deadline=None, max_examples=25)


def _is_fast(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "not slow")


def pytest_configure(config: pytest.Config) -> None:
    """Before test modules are imported, which read the number of examples."""
    settings.load_profile("fast" if _is_fast(config) else "whole")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The fast lane does not even import files all of whose tests are slow."""
    return True if _is_fast(config) and _is_slow(collection_path) else None


def pytest_collection_finish() -> None:
    """What is loaded by now stays: each collection of garbage would go through all of it, for tenths of a second."""
    gc.collect()
    gc.freeze()
    # Bindings that find their objects alive at the end of the process call that a leak. Not before: pytest's own last
    # collections would go through all of it five times.
    atexit.register(gc.unfreeze)


def _is_slow(path: Path) -> bool:
    return path.name in SLOW_FILES or path.relative_to(ROOT / "tests").parts[:1] in SLOW_FOLDERS


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
    """Marks what `scripts/test --fast` leaves out, and puts first what takes longest: quick files fill the end.

    Files with tests that run alone come last, where nothing long has to end before them.

    Slow is what uses a browser, Prometheus, a program that only root installs, or several processes. A single test
    that takes seconds for another reason carries the mark itself.
    """
    long, alone = set(), set()
    for item in items:
        if item.get_closest_marker("serial"):
            alone.add(item.path)
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if (
            _is_slow(item.path)
            or fixtures & SLOW_FIXTURES
            or (folder == "dashboard" and "server" in fixtures)
            or item.get_closest_marker("slow")
        ):
            long.add(item.path)
            item.add_marker("slow")
        elif parameters.get("store_url") == "debian_redis":
            item.add_marker("slow")

    def place(item: pytest.Item) -> int:
        if item.path in alone:
            return 4
        return 0 if item.path.name in LONGEST else 1 if item.path.name in LONG else 2 if item.path in long else 3

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds this user's own server, and no server of a test is found by this user's programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEADYNORM_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT
