"""The commands as a person or a script calls them, and jobs that train."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.interpreter import COMMANDS, Interpreter

if TYPE_CHECKING:
    from tests.support.jobs import Job, StartJob
    from tests.support.local_server import RunningStack

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def steadynorm(stack: RunningStack, python_without_torch: Interpreter) -> Command:
    """steadynorm("runs", ...) -> what the command did, with no terminal, and the home to find the server by."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**stack.environment, **variables}
        return python_without_torch.run("-m", "steadynorm_cli", *arguments, env=environment, modules=COMMANDS)

    return call


@pytest.fixture
def job(stack: RunningStack, start_job: StartJob, eventually: Any, request: pytest.FixtureRequest) -> Job:
    """A job with some steps that the server knows, with the test's own name."""
    started = start_job(stack, request.node.name[:60])
    eventually(lambda: started.agent.step > 20)
    started.agent.flush(20)
    eventually(lambda: [run for run in stack.client.runs().runs if run.run_id == started.run_id and run.step > 20])
    return started
