"""Quotas of agents' tokens: how many runs, and how much memory; runs that are there go on."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisAway
from typer.testing import CliRunner

from steadynorm_cli.commands import app
from steadynorm_cli.commands.whoami import whoami
from steadynorm_contract.client import Client
from steadynorm_contract.tokens import TokenInfo
from steadynorm_server.auth.principals import Principal, Role, TokenError, roles_granted, token_digest
from steadynorm_server.auth.token_file import read
from steadynorm_server.auth.tokens import Tokens

AGENT = {"Authorization": "Bearer team-token"}


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough."""
    return empty_valkey


def tokens(**quota: Any) -> Tokens:
    return Tokens(
        [
            (token_digest("team-token"), Principal("team", roles_granted(Role.AGENT), None, **quota)),
            (token_digest("a-token-for-tests"), Principal("operator", roles_granted(Role.OPERATOR))),
        ]
    )


async def registered(make_agent: Any, body_of: Any, client: httpx.AsyncClient, name: str) -> httpx.Response:
    agent = make_agent(client, name=name, run_id=name, instance=name)
    return await client.post("/runs", content=body_of(agent.registration), headers=AGENT)


async def test_a_token_has_no_more_runs_than_its_entry_says(serve: Any, make_agent: Any, body_of: Any) -> None:
    client = await serve(tokens(max_runs=2))
    answers = await asyncio.gather(*(registered(make_agent, body_of, client, f"run-{at}") for at in (5, 4, 3, 2, 1, 0)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 403, 403, 403, 403]
    refused = next(answer.json() for answer in answers if answer.status_code == 403)
    assert refused["title"] == "Quota"
    assert "token 'team' has 2 runs, and may have 2. Delete some" in refused["detail"]
    names = [run["run_id"] for run in (await client.get("/runs")).json()["runs"]]
    assert len(names) == 2
    assert (await registered(make_agent, body_of, client, names[0])).status_code == 200  # it comes back
    assert (await client.delete(f"/runs/{names[0]}")).status_code == 204
    client.app.state.repository.clock.now += 120
    assert (await registered(make_agent, body_of, client, "next")).status_code == 201


async def test_a_token_whose_runs_take_their_memory_gets_no_new_one(serve: Any, make_agent: Any, body_of: Any) -> None:
    client = await serve(tokens(max_mib=0.001))
    assert (await registered(make_agent, body_of, client, "one")).status_code == 201
    agent = make_agent(client, name="one", run_id="one", instance="one")
    client.headers["Authorization"] = AGENT["Authorization"]
    await agent.register()
    await agent.send(range(1, 101))
    second = await registered(make_agent, body_of, client, "two")
    assert second.status_code == 403
    assert "and may have 0.001 MiB" in second.json()["detail"]
    await agent.send(range(101, 111))  # what is there goes on


async def test_a_token_sees_how_much_of_its_quota_is_used(
    serve: Any, make_agent: Any, body_of: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = await serve(tokens(max_runs=2))
    assert (await registered(make_agent, body_of, client, "one")).status_code == 201
    assert "quota" not in (await client.get("/me")).json()
    me = (await client.get("/me", headers=AGENT)).json()
    assert me["quota"] | {"mib": 0} == {"max_runs": 2, "max_mib": None, "runs": 1, "mib": 0}
    assert 0 < me["quota"]["mib"] < 0.1
    seen = msgspec.convert(me, TokenInfo)
    monkeypatch.setattr(Client, "me", lambda _: seen)
    whoami("http://127.0.0.1:8470")
    assert capsys.readouterr().out == (
        "team at http://127.0.0.1:8470: agent\nhas 1 of at most 2 runs, and 0.0 MiB, in Redis\n"
    )

    async def away(*_: object) -> None:
        raise RedisAway("away")

    monkeypatch.setattr(client.app.state.repository.redis, "index_scores", away)
    told = (await client.get("/me", headers=AGENT)).json()["quota"]
    assert told == {"max_runs": 2, "max_mib": None, "runs": None, "mib": None}


def test_whoami_names_the_runs_that_a_token_is_bound_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Client, "me", lambda _: TokenInfo("ada", ["operator", "viewer"], ["gpt-*"]))
    whoami("http://127.0.0.1:8470")
    assert capsys.readouterr().out == "ada at http://127.0.0.1:8470: operator, viewer\nfor runs named gpt-*\n"
    whoami("http://127.0.0.1:8470", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"name": "ada", "roles": ["operator", "viewer"], "runs": ["gpt-*"]}


def test_an_entry_with_a_quota_is_read_and_made(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["token", "new", "team", "--role=agent", "--max-runs=5", "--max-mib=100", "--json"])
    entry = json.loads(made.stdout)["entry"]
    (tmp_path / "tokens.json").write_text(json.dumps([entry]))
    ((_, holder),) = read(tmp_path / "tokens.json")
    assert (holder.max_runs, holder.max_mib) == (5, 100.0)
    wrong = {"name": "ada", "role": "operator", "sha256": hashlib.sha256(b"x").hexdigest(), "max_runs": 5}
    (tmp_path / "tokens.json").write_text(json.dumps([wrong]))
    with pytest.raises(TokenError, match="max_runs and max_mib are for agents, who register runs: 'ada' is none"):
        read(tmp_path / "tokens.json")
    refused = CliRunner().invoke(app, ["token", "new", "ada", "--role", "operator", "--max-runs", "5"])
    assert "are for agents" in str(refused.exception)
