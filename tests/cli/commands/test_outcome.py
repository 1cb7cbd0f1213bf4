"""Commands whose answer was lost say so, look again, and end with what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support.interpreter import COMMANDS, Interpreter
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    import subprocess

    from tests.support.commands import Command
    from tests.support.jobs import Job
    from tests.support.local_server import RunningStack


HASTY = """
from steadynorm_cli.commands import outcome
from steadynorm_cli.main import main
outcome._LOOK_S = 1.0
main()
"""


@pytest.fixture
def hasty(stack: RunningStack, python_without_torch: Interpreter) -> Command:
    """As `steadynorm`, which looks for fifteen seconds what came of a write, and here for one."""

    def call(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**stack.environment, **variables}
        return python_without_torch.run("-c", HASTY, *arguments, env=environment, modules=COMMANDS)

    return call


def test_set_goes_on_with_a_change_whose_answer_was_lost(steadynorm: Command, stack: RunningStack, job: Job) -> None:
    with Proxy(stack.server) as proxy:
        proxy.writes = "cut"
        done = steadynorm("set", job.run_id, "gamma2=0.9", STEADYNORM_SERVER=proxy.server)
    assert done.returncode == 0, done.stderr
    assert "may have been carried out" in done.stderr
    assert "your change was made as r1" in done.stderr
    assert "nothing was changed" not in done.stderr.lower()
    assert "revision 1: gamma2 0.999 → 0.9\n" in done.stdout
    assert "applied at step" in done.stdout


def test_set_tells_that_a_lost_request_was_not_made(steadynorm: Command, stack: RunningStack, job: Job) -> None:
    with Proxy(stack.server) as proxy:
        proxy.writes = "lose"
        done = steadynorm("set", job.run_id, "gamma2=0.9", STEADYNORM_SERVER=proxy.server)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: your change was not made: {job.run_id} is still at r0. Repeat the command." in done.stderr


def test_a_server_that_stays_away_leaves_the_outcome_unknown(hasty: Command, stack: RunningStack, job: Job) -> None:
    with Proxy(stack.server) as proxy:
        proxy.writes, proxy.after_writes = "cut", "cut"
        done = hasty("set", job.run_id, "gamma2=0.9", STEADYNORM_SERVER=proxy.server)
    assert (done.returncode, done.stdout) == (7, "")
    assert "error: the outcome is unknown" in done.stderr
    assert stack.client.settings(job.run_id).revision == 1


def test_set_many_finds_what_came_of_every_run(steadynorm: Command, stack: RunningStack, job: Job) -> None:
    with Proxy(stack.server) as proxy:
        proxy.writes = "cut"
        # The preview is a POST as well: it is a read, and fails as one.
        failed = steadynorm("set-many", "--run", job.run_id, "gamma2=0.9", "--yes", STEADYNORM_SERVER=proxy.server)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert "may have been carried out" not in failed.stderr
        proxy.spared = 1
        done = steadynorm("set-many", "--run", job.run_id, "gamma2=0.9", "--yes", STEADYNORM_SERVER=proxy.server)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 run was changed" in done.stderr
    assert "changed" in done.stdout
    assert stack.client.settings(job.run_id).settings.gamma2 == 0.9
