"""Fixtures of the dashboard's tests: a server, a training run, and the app's pages in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.support.dashboard import APP, OPERATOR, OpenPage, ScriptedRun, StartRun, local_stack, without_runs

from steadynorm_cli.local_stack import LocalStack


@pytest.fixture(scope="session")
def _running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The server of all files whose tests run the app in their own process."""
    with local_stack(tmp_path_factory.mktemp("stack"), dashboard=False) as running:
        yield running


@pytest.fixture(scope="module")
def server(_running_server: LocalStack) -> LocalStack:
    """A server that the tests of a file share, without the runs of other files."""
    return without_runs(_running_server)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[LocalStack]:
    """A server without runs, for one test, which may end it."""
    with local_stack(tmp_path, dashboard=False) as running:
        yield running


@pytest.fixture(scope="session")
def scripted_run() -> type[ScriptedRun]:
    """For fixtures of a wider scope than `start_run`."""
    return ScriptedRun


@pytest.fixture
def start_run(server: LocalStack) -> StartRun:
    """start_run("name") -> a run that took 400 steps and sends more only when it is told to."""

    def start(name: str, at: LocalStack | None = None, **options: Any) -> ScriptedRun:
        return ScriptedRun(at or server, name, **options)

    return start


@pytest.fixture
def open_page(server: LocalStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OpenPage:
    """open_page("run's id", token="…", at="http://…", parameter="…") -> the app in this process after its first run.

    tab: the one that is open beneath the charts of a run's page.
    """
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
    monkeypatch.delenv("STEADYNORM_TOKEN", raising=False)

    def open_link(run: str | None = None, token: str | None = OPERATOR, at: str | None = None, **query: str) -> AppTest:
        monkeypatch.setenv("STEADYNORM_SERVER", at or server.server)
        app = AppTest.from_file(str(APP), default_timeout=60)
        tab = query.pop("tab", "Parameters")
        for name, value in {"run": run, "token": token, **query}.items():
            if value:
                app.query_params[name] = value
        app.session_state[f"{run}/tab"] = tab
        app.run()
        assert not app.exception, app.exception
        return app

    return open_link
