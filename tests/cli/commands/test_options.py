"""How a run is named, and what is said when that or the server fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import StartJob
    from tests.support.local_server import RunningStack


def test_a_run_is_meant_by_a_unique_beginning_and_two_are_asked_back(
    steadynorm: Command, stack: RunningStack, start_job: StartJob, eventually: Any
) -> None:
    first, second = start_job(stack, "twins-a"), start_job(stack, "twins-b")
    eventually(lambda: {first.run_id, second.run_id} <= {run.run_id for run in stack.client.runs().runs})
    assert json.loads(steadynorm("show", "twins-a", "--json").stdout)["run_id"] == first.run_id
    ambiguous = steadynorm("show", "twins")
    assert ambiguous.returncode == 1
    assert first.run_id in ambiguous.stderr
    assert second.run_id in ambiguous.stderr
    first.end()
    eventually(lambda: stack.client.run(first.run_id).state == "finished")
    assert json.loads(steadynorm("show", "twins", "--json").stdout)["run_id"] == second.run_id, "one is running"


def test_no_such_run_and_no_server_are_one_sentence_each(steadynorm: Command) -> None:
    unknown = steadynorm("show", "nobody")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("error: no run on http://127.0.0.1:")
    silent = steadynorm("runs", STEADYNORM_SERVER="http://127.0.0.1:9")
    assert silent.returncode == 1
    assert silent.stderr.startswith("error: no steadynorm server answers at http://127.0.0.1:9")
    assert "Traceback" not in unknown.stderr + silent.stderr


def test_what_is_no_text_is_said_in_one_sentence(steadynorm: Command) -> None:
    for arguments in (["show", "bad\udcff"], ["runs", "--tag", "a=\udcff"], ["note", "bad\udcff", "x"]):
        refused = steadynorm(*arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr.startswith("error: what is sent must be UTF-8 text: got '")
        assert refused.stderr.count("\n") == 1


def test_a_wrong_token_is_said(steadynorm: Command) -> None:
    refused = steadynorm("runs", STEADYNORM_TOKEN="not-the-token")
    assert refused.returncode == 1
    assert "token" in refused.stderr


def test_a_name_that_nearly_is_one_is_guessed_and_a_hidden_run_told_of(
    steadynorm: Command, stack: RunningStack, start_job: StartJob, eventually: Any
) -> None:
    job = start_job(stack, "resnet-of-options")
    eventually(lambda: job.run_id in {run.run_id for run in stack.client.runs().runs})
    assert steadynorm("show", "resent-of-option").stderr.endswith("begins so. Did you mean resnet-of-options?\n")
    for command in ("restore", "unarchive"):
        assert steadynorm(command, "resnet-of").stderr == f"error: {job.run_id} is neither archived nor deleted.\n"
    job.end()
    eventually(lambda: stack.client.run(job.run_id).state == "finished")
    assert steadynorm("archive", "resnet-of").returncode == 0
    hidden = steadynorm("show", "resnet-of")
    back = f"`steadynorm unarchive {job.run_id}` lists it again.\n"
    assert (hidden.returncode, hidden.stderr) == (1, f"error: {job.run_id} is archived: {back}")
    assert steadynorm("delete", "resnet-of").returncode == 0
    back = f"`steadynorm restore {job.run_id}` lists it again.\n"
    assert steadynorm("archive", "resnet-of").stderr == f"error: {job.run_id} is deleted: {back}"
