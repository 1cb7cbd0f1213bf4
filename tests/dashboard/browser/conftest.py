"""Fixtures of the tests in a real browser: a dashboard in a process of its own, and a run that goes on meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.dashboard import EVIL_NAME, ScriptedRun, local_stack, without_runs

from steadynorm_cli.local_stack import LocalStack


@pytest.fixture(scope="session")
def _running_dashboard(_running_server: LocalStack) -> Iterator[LocalStack]:
    """The dashboard of all files, which takes seconds to start, before the server of the files without a browser."""
    with local_stack(_running_server.data, dashboard=True) as running:
        yield running


@pytest.fixture(scope="module")
def server(_running_dashboard: LocalStack) -> LocalStack:
    """A server with a dashboard that the tests of a file share, without the runs of other files."""
    return without_runs(_running_dashboard)


@pytest.fixture
def live_run(server: LocalStack) -> Iterator[ScriptedRun]:
    """A run that trains, under a name that would be a script if it were not escaped."""
    with ScriptedRun(server, EVIL_NAME, tags={"team": "**bold**"}) as run:
        yield run
