"""`steadynorm archive`, `rename`, `delete` and `restore`, in this process on runs that a server knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import typer
import urllib3

from steadynorm_cli.commands import lifecycle
from steadynorm_cli.commands.outcome import confirmed
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import ClientError, NotFound
from steadynorm_contract.telemetry import Parameter, RunRegistration

if TYPE_CHECKING:
    from tests.support.local_server import RunningStack


def started(stack: RunningStack, name: str, *, ended: bool = True) -> str:
    """A run of this name; returns its id."""
    registration = RunRegistration(name=name, run_id=f"{name}-1", parameters=[Parameter("w", (1,), "float32")])
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    runs = f"{stack.server}/api/v1/runs"
    assert urllib3.request("POST", runs, body=msgspec.json.encode(registration), headers=headers).status in (200, 201)
    if ended:
        body = b'{"state": "finished"}'
        assert urllib3.request("POST", f"{runs}/{name}-1/finish", body=body, headers=headers).status == 204
    return f"{name}-1"


def test_runs_are_put_away_and_brought_back_by_name(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEADYNORM_TOKEN", stack.token)
    first, second, live = (started(stack, name, ended=name != "runs-on") for name in ("one-a", "one-b", "runs-on"))

    def listed() -> set[str]:
        return {run.run_id for run in stack.client.runs().runs} & {first, second, live}

    with pytest.raises(CommandError, match=r"1 of 3 runs refused: runs-on"):
        lifecycle.archive(["one-a", "one-b", "runs-on"], server=stack.server)
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "one-a-1: archived; back: steadynorm unarchive one-a-1"
    assert "Stop it first (`steadynorm set runs-on-1 stop=true`), then archive it." in shown.err
    assert listed() == {live}
    with pytest.raises(CommandError, match=r"one-a-1 is archived: `steadynorm unarchive one-a-1` lists it again\."):
        lifecycle.archive(["one-a"], server=stack.server)  # of that name none is listed
    lifecycle.unarchive(["one-a", "one-b"], server=stack.server)
    assert listed() == {first, second, live}
    lifecycle.rename("one-a", "kept\x1b[31m", server=stack.server)
    assert r"one-a-1: one-a → kept\x1b[31m" in capsys.readouterr().out
    lifecycle.delete(["one-a-1"], server=stack.server, reason="a typo", as_json=True)
    assert json.loads(capsys.readouterr().out)["deletes_at"] > 0
    assert listed() == {second, live}
    lifecycle.restore(["kept"], server=stack.server)
    assert listed() == {first, second, live}
    for now in (False, True):
        with pytest.raises((ClientError, CommandError), match="is live"):
            lifecycle.delete([live], now=now, yes=True, server=stack.server)


def test_removal_for_good_asks_first(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEADYNORM_TOKEN", stack.token)
    run_id = started(stack, "for-good")
    asked: list[str] = []

    def refuse(question: str, *, abort: bool, err: bool) -> None:
        asked.append(question)
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", refuse)
    with pytest.raises(typer.Abort):
        lifecycle.delete(["for-g"], now=True, server=stack.server)  # the question names what this prefix is of
    assert asked == ["Remove 1 run with all data, for good: for-good-1?"]
    assert stack.client.run(run_id).deletes_at is None
    for option in ({"grace": 5.0}, {"reason": "x"}):
        with pytest.raises(CommandError, match="has no effect with --now") as refused:
            lifecycle.delete([run_id], now=True, yes=True, server=stack.server, **option)
        assert refused.value.code == 2
    lifecycle.delete([run_id], now=True, yes=True, server=stack.server)
    assert "for-good-1: removed" in capsys.readouterr().out
    with pytest.raises(NotFound):
        stack.client.run(run_id)


def test_an_unknown_outcome_does_not_hold_up_the_other_runs(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEADYNORM_TOKEN", stack.token)
    started(stack, "lost"), started(stack, "known")
    fates = [CommandError("the outcome is unknown", 7)]

    def once_unknown(write: Callable[[], Any]) -> Any:
        if fates:
            raise fates.pop()
        return confirmed(write)

    monkeypatch.setattr(lifecycle, "confirmed", once_unknown)
    with pytest.raises(CommandError, match=r"1 of 2 runs with an unknown outcome: lost") as ended:
        lifecycle.archive(["lost", "known"], server=stack.server)
    assert ended.value.code == 7
    assert "known-1: archived" in capsys.readouterr().out
