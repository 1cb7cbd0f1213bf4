"""`steadynorm set-many` on jobs that train: shown first, made run by run, and honest about those that moved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from steadynorm_cli.commands.set_many import set_many
from steadynorm_cli.errors import CommandError
from steadynorm_contract.bulk import BulkOutcome, BulkResponse, BulkRow
from steadynorm_contract.client import Client

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job, StartJob
    from tests.support.local_server import RunningStack

    from steadynorm_contract.bulk import Bulk


@pytest.fixture
def many(steadynorm: Command) -> Command:
    """many("--name", ...) -> what `steadynorm set-many` did, with no terminal to ask at."""
    return lambda *arguments: steadynorm("set-many", *arguments)


@pytest.fixture
def jobs(
    stack: RunningStack, start_job: StartJob, eventually: Any, request: pytest.FixtureRequest
) -> tuple[Job, Job, Job]:
    """Two jobs of team nlp and one of team vision, tagged with the test's own name."""
    tags = {"test": request.node.name}
    started = (
        start_job(stack, "many-gpt-small", tags={**tags, "team": "nlp"}),
        start_job(stack, "many-gpt-large", tags={**tags, "team": "nlp"}),
        start_job(stack, "many-vit", tags={**tags, "team": "vision"}),
    )
    eventually(lambda: {job.run_id for job in started} <= {run.run_id for run in stack.client.runs().runs})
    return started


def test_nothing_changes_without_a_yes_and_the_preview_is_shown(
    many: Command, stack: RunningStack, jobs: tuple[Job, Job, Job], request: pytest.FixtureRequest
) -> None:
    asked = many("--name", "many-*", "--tag", f"test={request.node.name}", "gamma2=0.99")
    assert asked.returncode == 2
    assert "nothing was changed: use --yes to change 3 runs" in asked.stderr
    for job in jobs:
        row = next(line for line in asked.stdout.splitlines() if line.startswith(job.run_id))
        assert "gamma2 0.999 → 0.99" in row
        assert stack.client.settings(job.run_id).revision == 0


def test_the_selected_runs_change_and_no_other(
    many: Command, stack: RunningStack, jobs: tuple[Job, Job, Job], eventually: Any, request: pytest.FixtureRequest
) -> None:
    tags = ("--tag", f"test={request.node.name}", "--tag", "team=nlp")
    done = many(*tags, "mode=observe", "reset_generation=+1", "--reason", "all of nlp", "--yes")
    assert done.returncode == 0, done.stderr
    assert "changed 2 runs" in done.stdout
    small, large, vit = jobs
    for job in (small, large):
        eventually(lambda job=job: stack.client.run(job.run_id).applied.revision == 1)
        applied = stack.client.run(job.run_id).applied.settings
        assert (applied.mode, applied.reset_generation) == ("observe", 1)
        assert stack.client.audit(job.run_id).entries[0].reason == "all of nlp"
    assert stack.client.settings(vit.run_id).revision == 0

    again = json.loads(many(*tags, "mode=observe", "--yes", "--json").stdout)
    assert {row["outcome"] for row in again["runs"]} == {"unchanged"}
    added = json.loads(many("--run", small.run_id, "reset_generation=+1", "--yes", "--json").stdout)
    assert [(row["outcome"], row["revision"], row["after"]) for row in added["runs"]] == [
        ("changed", 2, {"reset_generation": 2})
    ]


def test_a_run_that_moved_meanwhile_is_left_and_the_exit_code_says_so(
    stack: RunningStack, jobs: tuple[Job, Job, Job], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    small, large, _ = jobs
    monkeypatch.setenv("STEADYNORM_TOKEN", stack.token)
    ask = Client.bulk_change

    def ask_and_lose_time(client: Client, bulk: Bulk) -> BulkResponse:
        """The real request; after the preview, somebody else is faster on one run."""
        answer = ask(client, bulk)
        if bulk.dry_run:
            stack.client.change(large.run_id, {"gamma1": 0.5}, revision=0)
        return answer

    monkeypatch.setattr(Client, "bulk_change", ask_and_lose_time)
    with pytest.raises(CommandError) as raised:
        set_many(["gamma2=0.9"], tag=[f"test={request.node.name}", "team=nlp"], yes=True, server=stack.server)
    assert raised.value.code == 3
    assert f"1 run changed after the preview and was skipped: {large.run_id}" in str(raised.value)
    assert "changed" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith(small.run_id))
    assert stack.client.settings(small.run_id).settings.gamma2 == 0.9
    assert stack.client.settings(large.run_id).settings.gamma2 == 0.999


def test_runs_of_which_the_store_did_not_say_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(run_id: str, outcome: str) -> BulkRow:
        return BulkRow(run_id=run_id, name=run_id, outcome=BulkOutcome(outcome), revision=1)

    responses = [
        BulkResponse(True, [row("one", "change"), row("two", "change")], {"one": 1, "two": 1}),
        BulkResponse(False, [row("one", "changed"), row("two", "unknown")], {}),
    ]
    monkeypatch.setattr(Client, "bulk_change", lambda *_: responses.pop(0))
    with pytest.raises(CommandError) as raised:
        set_many(["gamma2=0.9"], name="*", yes=True, server="http://127.0.0.1:9")
    assert raised.value.code == 1
    assert "Redis did not answer for 1 run, which may have been changed: two." in str(raised.value)
    assert "unknown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gamma2=0.9"], 2, "missing --name, --tag or --run"),
        (["--tag", "team", "gamma2=0.9"], 2, "--tag must be KEY=VALUE: got 'team'"),
        (["--tag", "a=1", "--tag", "a=2", "gamma2=0.9"], 2, "--tag a has two values"),
        (["--name", "*", "gamma2=1.0", "--yes"], 1, "gamma2 must be in [0, 1): got 1.0"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_its_rule(
    many: Command, arguments: list[str], code: int, said: str
) -> None:
    refused = many(*arguments)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert said in refused.stderr


def test_a_pattern_that_no_run_has_says_so(many: Command) -> None:
    nobody = many("--name", "nobody-*", "gamma2=0.9", "--yes")
    assert (nobody.returncode, nobody.stdout) == (0, "")
    assert "no run matches" in nobody.stderr
