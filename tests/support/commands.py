"""The commands as a person or a script calls them, and jobs that train."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.jobs import Job, StartJob
    from tests.support.local_server import RunningHouse

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def steadynorm(house: RunningHouse) -> Command:
    """steadynorm("runs", ...) -> what the command did, with no terminal, and the home to find the server by."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "steadynorm_cli", *arguments], env={**house.environment, **variables},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return call


@pytest.fixture
def job(house: RunningHouse, start_job: StartJob, eventually: Any, request: pytest.FixtureRequest) -> Job:
    """A job with some steps that the server knows, with the test's own name."""
    started = start_job(house, request.node.name[:60])
    eventually(lambda: [run for run in house.client.runs().runs if run.run_id == started.run_id and run.step > 20])
    return started
