"""Operators who race each other, and commands that come again in any order. benchmarks/live_change.py has 500 races."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import msgspec

from steadynorm_contract.audit import AuditList, verify
from steadynorm_contract.codec import encode_json

RACES = 40
COMMANDS = 10
TIMES = 10


async def test_every_race_has_one_winner_and_the_audit_has_all_winners_and_no_loser(agent: Any, serve: Any) -> None:
    servers = [agent.client, await serve()]
    won = []
    for revision in range(RACES):
        reasons = [f"race {revision} at {server}" for server in random.Random(revision).sample(range(2), 2)]
        responses = await asyncio.gather(
            *(_change(servers[int(reason[-1])], agent.run, revision, 0.5 + revision / 100 + at / 1000, reason)
              for at, reason in enumerate(reasons))
        )  # fmt: skip
        assert sorted(answer.status_code for answer in responses) == [200, 412]
        won += [reason for reason, answer in zip(reasons, responses, strict=True) if answer.status_code == 200]
    for server in servers:
        audit = msgspec.json.decode((await server.get(f"{agent.run}/audit?verify=true")).content, type=AuditList)
        assert [entry.reason for entry in reversed(audit.entries)] == won
        assert [entry.revision for entry in reversed(audit.entries)] == list(range(1, RACES + 1))
        assert audit.chain is not None
        assert audit.chain.verified
        assert verify("tiny-1", audit.entries) == audit.chain


async def test_commands_that_come_again_ten_times_in_any_order_change_nothing_more(agent: Any, serve: Any) -> None:
    servers = [agent.client, await serve()]
    select = {"select": {"run_ids": ["tiny-1"]}, "settings": {"reset_generation": "+1"}}
    preview = (await agent.client.post("/settings/bulk", content=encode_json(select))).json()
    bulk = encode_json({**select, "dry_run": False, "revisions": preview["revisions"]})
    assert (await agent.client.post("/settings/bulk", content=bulk)).json()["runs"][0]["outcome"] == "changed"
    for revision in range(1, COMMANDS):
        answer = await _change(agent.client, agent.run, revision, 0.5 + revision / 100, f"command {revision}")
        assert answer.status_code == 200
    paths = ("/settings", "/audit", "/events", "")
    before = [(await agent.client.get(agent.run + path)).content for path in paths]
    again = [number for number in range(COMMANDS) for _ in range(TIMES)]
    chance = random.Random(0)
    chance.shuffle(again)
    for number in again:
        server = chance.choice(servers)
        if number == 0:
            assert (await server.post("/settings/bulk", content=bulk)).json()["runs"][0]["outcome"] == "conflict"
        else:
            answer = await _change(server, agent.run, number, 0.5 + number / 100, f"command {number}")
            assert answer.status_code == 412
    assert [(await agent.client.get(agent.run + path)).content for path in paths] == before


async def _change(server: httpx.AsyncClient, run: str, revision: int, gamma2: float, reason: str) -> httpx.Response:
    content = encode_json({"settings": {"gamma2": gamma2}, "reason": reason})
    return await server.patch(f"{run}/settings", content=content, headers={"If-Match": f'"{revision}"'})
