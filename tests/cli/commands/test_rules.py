"""`steadynorm rules` on a job that trains."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from steadynorm_cli.commands.rules import rules
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client, Conflict

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.jobs import Job
    from tests.support.local_server import RunningStack


def test_a_rule_is_given_acts_on_the_job_and_is_taken_away(
    steadynorm: Command, stack: RunningStack, job: Job, eventually: Any
) -> None:
    assert "has no rules" in steadynorm("rules", job.run_id).stderr
    given = steadynorm("rules", job.run_id, "--add", "broken", "--when", "nonfinite > 0, 2 times", "mode=observe")
    assert given.returncode == 0, given.stderr
    assert [word in given.stdout for word in ("0 of 2", "0 of 1", "mode=observe", "active")] == [True] * 4
    steadynorm("rules", job.run_id, "--add", "slow", "--when", "loss > 1e6 for 5 steps", "reset_generation=+1")
    for _ in range(2):
        job.poison.set()
        eventually(lambda: not job.poison.is_set())
    eventually(lambda: stack.client.run(job.run_id).applied.settings.mode == "observe")
    (entry,) = stack.client.audit(job.run_id).entries
    assert (entry.actor, entry.reason) == ("rule:broken by local", "nonfinite > 0, 2 times")
    shown = steadynorm("rules", job.run_id)
    assert "no actions left; the last was at step" in shown.stdout
    left = json.loads(steadynorm("rules", job.run_id, "--remove", "broken", "--json").stdout)
    assert [each["condition"] for each in left["rules"]] == ["loss > 1000000 for 5 steps"]
    assert steadynorm("rules", job.run_id, "--remove", "broken").returncode == 1
    typo = steadynorm("rules", job.run_id, "--add", "typo", "--when", "raw_nrm > 3", "paused=true")
    warning = "no scalar 'raw_nrm' in this run; did you mean 'raw_norm'?"
    assert (typo.returncode, typo.stderr) == (0, f"warning: {warning} The rule waits for it.\n")
    assert "has seen no value yet" in " ".join(typo.stdout.split())
    told = steadynorm("events", job.run_id, "--kind", "automation")
    assert 'rule broken, nonfinite > 0, 2 times: set mode "observe", as revision 1.' in told.stdout


def test_what_cannot_be_a_rule_is_said_before_anything_is_sent() -> None:
    for given, said in (
        ({"add": "x", "when": None, "changes": ["paused=true"]}, "--add requires --when"),
        ({"add": "x", "when": "loss > 1", "changes": []}, "--add requires --when"),
        ({"when": "loss > 1", "changes": ["paused=true"]}, "missing --add ID"),
    ):
        with pytest.raises(CommandError, match=said) as error:
            rules("any", **given)
        assert error.value.code == 2


def test_somebody_who_is_faster_with_the_rules_is_a_conflict(
    stack: RunningStack, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(*_: Any, **__: Any) -> Any:
        raise Conflict("the rules are at revision 2")

    monkeypatch.setattr(Client, "set_rules", faster)
    monkeypatch.setenv("STEADYNORM_HOME", str(stack.home))
    with pytest.raises(CommandError, match="nothing was changed: the rules are at revision 2") as error:
        rules(job.run_id, ["paused=true"], add="x", when="loss > 1", server=stack.server)
    assert error.value.code == 3
    with pytest.raises(CommandError, match="a condition must be SCALAR < VALUE") as error:
        rules(job.run_id, ["paused=true"], add="x", when="loss is high", server=stack.server)
    assert error.value.code == 2
