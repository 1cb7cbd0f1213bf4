"""`steadynorm retain` on a run that a server knows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
import urllib3

from steadynorm_cli.commands.retention import retain
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client, Conflict
from steadynorm_contract.retention import RetentionLimits, RetentionUpdate
from steadynorm_contract.telemetry import Parameter, RunRegistration

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.local_server import RunningStack


@pytest.fixture
def run_id(stack: RunningStack) -> str:
    """A run that is registered and no more."""
    registration = RunRegistration(
        name="retained", run_id="retained-1", instance="one", parameters=[Parameter("w", (1,), "float32")]
    )
    answer = urllib3.request(
        "POST", f"{stack.server}/api/v1/runs", body=msgspec.json.encode(registration),
        headers={"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"},
    )  # fmt: skip
    assert answer.status in (200, 201)
    return "retained-1"


def test_size_and_age_are_set_shown_and_put_back(steadynorm: Command, stack: RunningStack, run_id: str) -> None:
    done = steadynorm("retain", run_id, "--max-mib", "16", "--keep-days", "90", "--reason", "one of a \x1b[31msweep")
    assert done.returncode == 0, done.stderr
    first, second, third, change = done.stdout.splitlines()
    assert first == "retained-1 uses 0.0 of 16 MiB; the maximum is 64"
    assert second == "it is stored for 90 days after its last activity"
    assert third.startswith("it will be removed at 2")
    assert change.endswith(r"default, default → 16 MiB, 90 days by local: one of a \x1b[31msweep")
    partly = steadynorm("retain", run_id, "--max-mib", "default", "--json")
    assert json.loads(partly.stdout)["own"] == {"max_mib": None, "keep_days": 90.0}
    assert json.loads(steadynorm("retain", run_id, "--max-mib", "null", "--json").stdout) == json.loads(partly.stdout)
    assert stack.client.retention(run_id).own == RetentionLimits(None, 90.0)
    refused = steadynorm("retain", run_id, "--max-mib", "65")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "max_mib must be default or from 1 to 64: got 65." in refused.stderr


def test_a_word_that_is_no_number_or_came_too_late_sets_nothing(
    stack: RunningStack, run_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("steadynorm_cli.commands.retention.Client", lambda _: stack.client)
    before = stack.client.retention(run_id)
    with pytest.raises(CommandError, match="--keep-days must be a number or default: got 'x'") as wrong:
        retain(run_id, keep_days="x")
    assert wrong.value.code == 2
    with pytest.raises(CommandError, match=r"got 'None'\. To exempt a run, use a large number\."):
        retain(run_id, keep_days="None")
    stale = msgspec.structs.replace(before, revision=before.revision + 7)
    monkeypatch.setattr(Client, "retention", lambda *_: stale)
    with pytest.raises(
        CommandError, match="nothing was changed: the retention of retained-1 was changed concurrently"
    ) as late:
        retain(run_id, max_mib="8")
    assert late.value.code == 3
    monkeypatch.undo()
    with pytest.raises(Conflict):
        stack.client.set_retention(run_id, RetentionUpdate(max_mib=8, revision=stale.revision))
    assert stack.client.retention(run_id) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
def test_what_json_has_no_number_for_is_no_default(steadynorm: Command, run_id: str, number: str) -> None:
    for option in ("--max-mib", "--keep-days"):
        done = steadynorm("retain", run_id, f"{option}={number}")
        name = option.removeprefix("--").replace("-", "_")
        assert (done.returncode, done.stderr) == (1, f"error: {name} must be a finite number: got {number}.\n")
