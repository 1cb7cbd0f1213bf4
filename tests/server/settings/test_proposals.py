"""Proposals: stored, decided by an operator, made at once within a budget, and audited as such."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.support.server import STARTED

from steadynorm_contract.proposals import MAX_PROPOSALS
from steadynorm_server.auth.principals import TokenError
from steadynorm_server.auth.token_file import read
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.redis.client import RedisClient, _scripts

DAY_S = 86_400

BUDGET = {
    "settings": {
        "gamma2": {"min": 0.9, "max": 0.9999},
        "mode": {"among": ["observe"]},
        "paused": {"among": [True]},
        "spike_limit": {"among": ["off", 3]},
    },
    "changes_a_day": 2,
}


def entry(name: str, role: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": role, "sha256": hashlib.sha256(name.encode()).hexdigest(), **more}


ENTRIES = [
    entry("trainer", "agent"),
    entry("ada", "operator"),
    entry("bot", "proposer"),
    entry("frugal", "proposer", budget=BUDGET),
]


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough here."""
    return empty_valkey


@pytest.fixture
async def run(serve: Any, make_agent: Any, tmp_path: Path) -> Any:
    """(an agent with a run, ask(who, method, path, body, **headers))."""
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(ENTRIES))
    client = await serve(Tokens.configured(ServerConfig(data=tmp_path, tokens_file=file)))

    async def ask(who: str, method: str, path: str = "/proposals", body: Any = None, **headers: str) -> Any:
        sent = {"Authorization": f"Bearer {who}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await client.request(method, f"/runs/tiny-1{path}", json=body, headers=sent)

    client.headers["Authorization"] = "Bearer trainer"
    agent = make_agent(client)
    await agent.register()
    return ask


async def propose(run: Any, who: str = "bot", settings: Any = None, revision: int = 0, reason: str = "falls") -> Any:
    body = {"settings": {"gamma2": 0.99} if settings is None else settings, "revision": revision, "reason": reason}
    return await run(who, "POST", body=body)


async def test_a_proposal_changes_nothing_until_an_operator_approves_it(run: Any) -> None:
    made = await propose(run)
    assert made.status_code == 201, made.text
    assert (made.json()["state"], made.json()["proposed_by"]) == ("open", "bot")
    assert (await run("bot", "GET", "/settings")).json()["revision"] == 0
    path, approve = f"/proposals/{made.json()['id']}", {"approve": True, "reason": "agreed"}
    assert (await run("bot", "POST", path, approve, If_Match='"0"')).status_code == 403  # not by itself
    assert (await run("ada", "POST", path, approve)).status_code == 428
    done = await run("ada", "POST", path, approve, If_Match='"0"')
    assert done.status_code == 200, done.text
    assert (done.json()["state"], done.json()["made"], done.json()["decided_by"]) == ("approved", 1, "ada")
    assert (await run("bot", "GET", "/settings")).json()["settings"]["gamma2"] == 0.99
    audit = (await run("ada", "GET", "/audit?verify=true")).json()
    assert audit["chain"]["verified"] is True
    (change,) = audit["entries"]
    assert (change["actor"], change["reason"]) == ("ada", "proposed by bot: falls; approved: agreed")
    events = [each for each in (await run("ada", "GET", "/events")).json()["events"] if each["kind"] == "proposal"]
    assert [each["message"] for each in events] == [
        "ada set gamma2 0.99, proposed by bot, as revision 1: falls",
        "bot proposes gamma2 0.99: falls",
    ]
    assert events[0]["value"] == 1
    again = await run("ada", "POST", path, approve, If_Match='"1"')
    assert (again.status_code, "decided already: approved by ada" in again.text) == (409, True)


async def test_two_operators_who_approve_at_once_make_one_change(run: Any) -> None:
    made = (await propose(run, settings={"reset_generation": "+1"})).json()
    asked = [run("ada", "POST", f"/proposals/{made['id']}", {"approve": True}, If_Match='"0"') for _ in range(6)]
    statuses = sorted(answer.status_code for answer in await asyncio.gather(*asked))
    assert statuses[0] == 200
    assert set(statuses[1:]) <= {409, 412}
    now = (await run("ada", "GET", "/settings")).json()
    assert (now["revision"], now["settings"]["reset_generation"]) == (1, 1)


async def test_proposals_that_come_meanwhile_do_not_keep_one_from_being_approved(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor from being made within a budget, whose count is then that of one change."""
    script, others = RedisClient.script, []

    async def after_another_proposal(self: Any, name: Any, *arguments: Any) -> Any:
        if name == "change":
            monkeypatch.setattr(RedisClient, "script", script)
            revision = (await run("ada", "GET", "/settings")).json()["revision"]
            others.append((await propose(run, settings={"gamma1": 0.5}, revision=revision)).json()["state"])
        return await script(self, name, *arguments)

    made = (await propose(run)).json()
    monkeypatch.setattr(RedisClient, "script", after_another_proposal)
    done = await run("ada", "POST", f"/proposals/{made['id']}", {"approve": True}, If_Match='"0"')
    assert (done.status_code, done.json().get("made")) == (200, 1), done.text
    monkeypatch.setattr(RedisClient, "script", after_another_proposal)
    within = (await propose(run, "frugal", {"gamma2": 0.95}, revision=1)).json()
    assert (within.get("state"), within.get("decision")) == ("within_budget", "1 of 2 changes today"), within
    assert len((await run("ada", "GET", "/audit")).json()["entries"]) == 2
    assert others == ["open"] * 2


async def test_a_proposal_whose_base_is_gone_says_so_and_can_only_be_refused(run: Any) -> None:
    made = (await propose(run)).json()
    changed = await run("ada", "PATCH", "/settings", {"settings": {"gamma1": 0.5}}, If_Match='"0"')
    assert changed.status_code == 200
    for revision in ("0", "1"):
        answer = await run("ada", "POST", f"/proposals/{made['id']}", {"approve": True}, If_Match=f'"{revision}"')
        assert answer.status_code == 412
        assert (
            "is based on revision 0 of the settings of tiny-1, which are at revision 1 now" in answer.json()["detail"]
        )
    listed = (await run("bot", "GET")).json()
    assert (listed["revision"], [each["state"] for each in listed["proposals"]]) == (1, ["open"])
    refused = await run("ada", "POST", f"/proposals/{made['id']}", {"approve": False, "reason": "late"}, If_Match='"1"')
    assert (refused.json()["state"], refused.json()["decision"]) == ("refused", "late")
    assert (await run("ada", "GET", "/settings")).json()["settings"]["gamma2"] == 0.999
    assert (await propose(run)).status_code == 412  # on a revision that is gone


async def test_within_its_budget_a_proposer_is_not_asked_for_and_beyond_it_is(run: Any) -> None:
    first = (await propose(run, "frugal", {"gamma2": 0.99})).json()
    assert (first["state"], first["made"], first["decision"]) == ("within_budget", 1, "1 of 2 changes today")
    for outside in (
        {"gamma2": 0.5},
        {"gamma1": 0.5},
        {"mode": "off"},
        {"gamma2": 0.99, "eps": 1e-8},
        {"paused": False},
    ):
        assert (await propose(run, "frugal", outside, revision=1)).json()["state"] == "open", outside
    stale = await propose(run, "frugal", {"gamma2": 0.98}, revision=0)
    assert stale.status_code == 412
    second = (await propose(run, "frugal", {"mode": "observe"}, revision=1)).json()
    assert (second["state"], second["decision"]) == ("within_budget", "2 of 2 changes today")  # 412 took none
    assert (await propose(run, "frugal", {"gamma2": 0.98}, revision=2)).json()["state"] == "open"  # none is left
    (last, _) = (await run("ada", "GET", "/audit")).json()["entries"]
    assert (last["actor"], last["reason"]) == ("frugal", "within its budget (2 of 2 changes today): falls")


@pytest.mark.parametrize("value", ["off", "none", None])
async def test_off_among_the_values_of_a_budget_is_off_however_it_is_sent(run: Any, value: object) -> None:
    assert (await propose(run, "frugal", {"spike_limit": 3})).json()["state"] == "within_budget"
    assert (await propose(run, "frugal", {"spike_limit": value}, revision=1)).json()["state"] == "within_budget"


@pytest.mark.parametrize(("answer", "status"), [([b"not_found"], 404), ([b"audit_head", b"another"], 503)])
async def test_a_change_that_was_not_made_is_none_of_the_budget(
    run: Any, monkeypatch: pytest.MonkeyPatch, answer: list[bytes], status: int
) -> None:
    """The run is deleted meanwhile, or others change it all the time."""
    script = RedisClient.script

    async def refuses(self: Any, name: Any, *arguments: Any) -> Any:
        return answer if name == "change" else await script(self, name, *arguments)

    monkeypatch.setattr(RedisClient, "script", refuses)
    assert (await propose(run, "frugal")).status_code == status
    monkeypatch.setattr(RedisClient, "script", script)
    assert (await propose(run, "frugal")).json()["decision"] == "1 of 2 changes today"


async def test_a_budget_is_that_of_one_day_whichever_servers_clock_says_so(run: Any, clock: Any) -> None:
    """Of two servers, one has begun the day and the other, whose clock is late, has not."""

    async def propose_at(days: float, revision: int) -> str:
        clock.now = (STARTED // DAY_S + days) * DAY_S
        made = await propose(run, "frugal", {"gamma2": 0.9 + revision / 1000}, revision=revision)
        state: str = made.json()["state"]
        return state

    days = (0.999, 0.999, 1.001, 0.999, 1.001, 0.999)
    made = [await propose_at(day, min(at, 4)) for at, day in enumerate(days)]
    assert made == ["within_budget"] * 4 + ["open"] * 2
    assert await propose_at(2, 4) == "within_budget"


async def test_what_is_given_back_after_midnight_is_not_of_the_new_day(run: Any, clock: Any, empty_valkey: str) -> None:
    with redis.Redis.from_url(empty_valkey, protocol=2) as client:
        script = client.register_script(_scripts()["budget"][1])
        key = ["steadynorm:budget:frugal"]
        asked = [
            (1, 1, "a"),
            (2, 1, "b"),
            (1, -1, "c"),
            (2, 1, "d"),
            (2, 1, "e"),
            (2, -1, "f"),
            (2, -1, "f"),
            (2, 1, "g"),
        ]
        assert [script(key, [day, 2, change, name]) for day, change, name in asked] == [1, 1, -1, 2, -1, 1, 1, 2]
        assert client.ttl(key[0]) > DAY_S
        client.expire(key[0], 5)  # as with a day from a clock that was far ahead
        assert (script(key, [1, 4, 1, "h"]), client.ttl(key[0]) <= 5) == (3, True)


async def test_open_proposals_are_bounded_and_a_refusal_makes_room(run: Any) -> None:
    ids = [(await propose(run, reason=f"{at}")).json()["id"] for at in range(MAX_PROPOSALS)]
    full = await propose(run)
    assert (full.status_code, "20 open proposals" in full.text) == (409, True)
    assert (await run("ada", "POST", f"/proposals/{ids[0]}", {"approve": False}, If_Match='"0"')).status_code == 200
    assert (await propose(run)).status_code == 201
    states = [each["state"] for each in (await run("bot", "GET")).json()["proposals"]]
    assert states == ["open"] * MAX_PROPOSALS + ["refused"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (entry("x", "viewer", budget=BUDGET), "a budget is for a proposer"),
        (entry("x", "proposer", budget={"settings": {"gamma9": {"among": [1]}}, "changes_a_day": 1}), "'gamma9'"),
        (entry("x", "proposer", budget={"settings": {"gamma2": {"min": 0.9}}, "changes_a_day": 1}), "min and max"),
        (entry("x", "proposer", budget={"settings": {"gamma2": {"min": 1, "max": 0}}, "changes_a_day": 1}), "at most"),
        (entry("x", "proposer", budget={"settings": {}, "changes_a_day": 0}), "changes_a_day"),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused(tmp_path: Path, wrong: dict[str, Any], says: str) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps([wrong]))
    with pytest.raises(TokenError, match=says):
        read(file)
