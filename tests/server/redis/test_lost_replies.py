"""A store that does what it was asked and loses the connection before it says so.

Asked again, all is done once; and what its sender was not told has its line of the audit stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import pytest
import redis
from redis.exceptions import ConnectionError as RedisAway
from tests.support.server import STARTED, TOKEN, Serve

from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import UserNote
from steadynorm_server import audit_log
from steadynorm_server.auth.budget import Budget, Values
from steadynorm_server.auth.principals import Principal, Role, token_digest
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.redis.client import Script, _scripts
from steadynorm_server.retention.policy import Limits, delete_expired
from steadynorm_server.telemetry import registration

BOT = "the-token-of-a-bot"
FREE = {"gamma2": Values(min=0.0, max=0.9999)}
TOKENS = Tokens(
    [
        (token_digest(TOKEN), Principal("local", frozenset({Role.AGENT, Role.VIEWER, Role.OPERATOR}))),
        (token_digest(BOT), Principal("bot", frozenset({Role.PROPOSER, Role.VIEWER}), budget=Budget(FREE, 2))),
    ]
)
TWICE = {"reset_generation": "+1"}


class LosingStore:
    """Passes all on to a store. `lose(script)`: the connection is closed in place of its next reply, or replies."""

    def __init__(self, url: str) -> None:
        self._at = redis.ConnectionPool.from_url(url).connection_kwargs
        self._lost: bytes | None = None
        self._left = 0
        self.losses = 0
        self.url = ""
        self._served: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def lose(self, script: Script | Literal["unlink"], times: int = 1) -> Iterator[None]:
        """The reply to so many calls of it during the block."""
        self._lost = b"UNLINK" if script == "unlink" else _scripts()[script][0].encode()
        self._left, before = times, self.losses
        yield
        assert self.losses == before + times, f"{script} was not called by its hash"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take connections during the block."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield
        await asyncio.gather(*self._served)

    async def _serve(self, near: asyncio.StreamReader, replies: asyncio.StreamWriter) -> None:
        if (served := asyncio.current_task()) is not None:
            self._served.add(served)
        path = self._at.get("path")
        opened = (
            asyncio.open_unix_connection(path) if path else asyncio.open_connection(self._at["host"], self._at["port"])
        )
        far, commands = await opened
        loses = False

        async def ask() -> None:
            nonlocal loses
            while data := await near.read(2**20):
                if self._lost is not None and self._lost in data:
                    self._left -= 1
                    self._lost, loses = self._lost if self._left else None, True
                commands.write(data)
            commands.close()

        async def reply() -> None:
            while data := await far.read(2**20):
                if loses:
                    self.losses += 1
                    break
                replies.write(data)
            replies.close()

        with contextlib.suppress(OSError):
            await asyncio.gather(ask(), reply())


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough."""
    return empty_valkey


@pytest.fixture
async def store(empty_valkey: str) -> AsyncIterator[LosingStore]:
    made = LosingStore(empty_valkey)
    async with made.listening():
        yield made


@pytest.fixture
async def api(store: LosingStore, serve: Serve, empty_valkey: str) -> httpx.AsyncClient:
    with redis.Redis.from_url(empty_valkey) as client:
        for _, text in _scripts().values():
            client.script_load(text)
    return await serve(TOKENS, url=store.url)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Any]:
    """The kinds of lines of the audit stream."""
    path = tmp_path / "audit.jsonl"
    audit_log.configure(str(path))
    yield lambda: [json.loads(line)["kind"] for line in path.read_text("utf-8").splitlines()]
    audit_log.configure("")


async def test_a_change_of_settings_is_made_once_and_its_sender_is_told_so(
    told: Any, agent: Any, store: LosingStore
) -> None:
    with store.lose("change"):
        made = await agent.change(0, {"gamma2": 0.9})
    assert (made.status_code, made.json()["revision"]) == (200, 1), made.text
    assert (await agent.change(0, {"gamma2": 0.8})).status_code == 412
    assert (await agent.get("/settings"))["settings"]["gamma2"] == 0.9
    assert [entry["revision"] for entry in (await agent.get("/audit", verify=True))["entries"]] == [1]
    with store.lose("change"):
        bulk = {"select": {"name": "*"}, "settings": TWICE, "dry_run": False, "revisions": {"tiny-1": 1}}
        rows = (await agent.client.post("/settings/bulk", json=bulk)).json()["runs"]
    assert [(row["outcome"], row["revision"]) for row in rows] == [("changed", 2)]
    assert told() == ["registered", "settings", "settings"]


@pytest.mark.parametrize(
    ("method", "path", "body", "of"),
    [
        ("POST", "/schedules", {"from_step": 100, "settings": TWICE}, "schedules"),
        ("POST", "/proposals", {"settings": TWICE, "revision": 0, "reason": "tried"}, "proposals"),
        ("PUT", "/retention", {"max_mib": 16, "revision": 0}, "changes"),
    ],
)
async def test_what_waits_for_its_time_is_stored_once(
    agent: Any, store: LosingStore, method: str, path: str, body: dict[str, Any], of: str
) -> None:
    with store.lose("compare_and_set"):
        made = await agent.client.request(method, agent.run + path, json=body)
    assert made.status_code in (200, 201), made.text
    assert len((await agent.get(path))[of]) == 1


async def test_rules_that_are_based_on_a_revision_are_saved_once(agent: Any, store: LosingStore) -> None:
    when = {"scalar": "target_min", "comparison": "<", "value": 0.3}
    rule = {"id": "low", "when": when, "settings": TWICE}
    with store.lose("compare_and_set"):
        saved = await agent.client.put(f"{agent.run}/rules", json={"rules": [rule], "revision": 0})
    assert (saved.status_code, saved.json()["revision"]) == (200, 1), saved.text


async def test_a_note_is_stored_once(agent: Any, store: LosingStore) -> None:
    with store.lose("note"):
        made = await agent.client.post(f"{agent.run}/notes", json={"text": "new data"})
    (stored,) = (await agent.get("/notes"))["notes"]
    assert made.status_code == 201
    assert stored == made.json()


async def test_a_budget_is_charged_once(agent: Any, store: LosingStore) -> None:
    async def propose(revision: int, gamma2: float) -> Any:
        body = {"settings": {"gamma2": gamma2}, "revision": revision, "reason": "tried"}
        answer = await agent.client.post(
            f"{agent.run}/proposals", json=body, headers={"Authorization": f"Bearer {BOT}"}
        )
        return answer.json()["decision"]

    with store.lose("budget"):
        assert await propose(0, 0.9) == "1 of 2 changes today"
    with store.lose("change"):
        assert await propose(1, 0.8) == "2 of 2 changes today"
    assert (await agent.get("/settings"))["revision"] == 2


async def test_a_batch_has_all_its_consequences(told: Any, agent: Any, store: LosingStore) -> None:
    await agent.client.post(f"{agent.run}/schedules", json={"from_step": 2, "settings": TWICE})
    with store.lose("commit"):
        answer = await agent.send([1, 2], user_notes=[UserNote(1, STARTED, "new data")])
    assert (answer["acknowledged"], answer["desired"]["revision"]) == (1, 1)
    assert (await agent.get())["counters"]["steps"] == 2
    assert told() == ["registered", "schedule", "note", "settings"]


async def test_a_new_process_is_not_stopped_by_what_was_meant_for_the_one_before(
    told: Any, agent: Any, store: LosingStore, make_agent: Any
) -> None:
    assert (await agent.change(0, {"stop": True})).status_code == 200
    after = make_agent(agent.client, instance="two", applied_revision=1)
    with store.lose("register"):
        registered = await after.register()
    assert (registered["incarnation"], registered["desired"]["settings"]["stop"]) == (2, False)
    assert told() == ["registered", "settings", "registered", "settings"]
    with store.lose("register"):
        new = make_agent(agent.client, name="other", run_id="other-1")
        assert (await agent.client.post("/runs", content=encode_json(new.registration))).status_code == 201


async def test_nor_where_its_registration_was_cut_off_halfway_and_is_sent_again(
    agent: Any, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise RedisAway("gone")

    assert (await agent.change(0, {"stop": True})).status_code == 200
    after = make_agent(agent.client, instance="two", applied_revision=1)
    with monkeypatch.context() as cut:
        cut.setattr(registration, "clear_pause_and_stop", away)
        sent = encode_json(after.registration)
        assert (await agent.client.post("/runs", content=sent)).status_code == 503
    registered = await after.register()
    assert (registered["incarnation"], registered["desired"]["settings"]["stop"]) == (2, False)
    assert (await after.change(registered["desired"]["revision"], {"paused": True})).status_code == 200
    assert (await after.register())["desired"]["settings"]["paused"] is True  # that is meant for this one


async def until_told(told: Any, *kinds: str) -> None:
    async with asyncio.timeout(30):
        while told() != list(kinds):  # noqa: ASYNC110 # a file tells of no change
            await asyncio.sleep(0.02)


WHEN = {"scalar": "target_min", "comparison": "<", "value": 0.3}


@pytest.mark.parametrize(
    ("script", "method", "path", "body", "kind"),
    [
        ("change", "PATCH", "/settings", {"settings": {"gamma2": 0.9}}, "settings"),
        ("compare_and_set", "POST", "/schedules", {"from_step": 100, "settings": TWICE}, "schedule"),
        ("compare_and_set", "PUT", "/rules", {"rules": [{"id": "low", "when": WHEN, "settings": TWICE}]}, "rules"),
        ("compare_and_set", "PUT", "/retention", {"max_mib": 16}, "retention"),
        ("compare_and_set", "PATCH", "", {"name": "renamed"}, "lifecycle"),
        ("compare_and_set", "POST", "/proposals", {"settings": TWICE, "revision": 0, "reason": "tried"}, "proposal"),
        ("note", "POST", "/notes", {"text": "new data"}, "note"),
    ],
)
async def test_a_change_whose_sender_was_told_nothing_has_its_line(
    told: Any, agent: Any, store: LosingStore, script: Script, method: str, path: str, body: Any, kind: str
) -> None:
    with store.lose(script, times=2):
        answer = await agent.client.request(method, agent.run + path, json=body, headers={"If-Match": '"0"'})
    assert answer.status_code == 503
    await until_told(told, "registered", kind)


async def test_so_has_one_within_a_budget_and_the_end_of_a_schedule(told: Any, agent: Any, store: LosingStore) -> None:
    body = {"settings": {"gamma2": 0.9}, "revision": 0, "reason": "tried"}
    with store.lose("change", times=2):
        headers = {"Authorization": f"Bearer {BOT}"}
        assert (await agent.client.post(f"{agent.run}/proposals", json=body, headers=headers)).status_code == 503
    await until_told(told, "registered", "settings", "proposal")
    made = await agent.client.post(f"{agent.run}/schedules", json={"from_step": 500, "settings": TWICE})
    with store.lose("compare_and_set", times=2):
        path = f"{agent.run}/schedules/{made.json()['id']}"
        assert (await agent.client.delete(path)).status_code == 503
    await until_told(told, "registered", "settings", "proposal", "schedule", "unscheduled")


async def test_so_has_an_agent_that_began_though_it_asks_again_at_once(
    told: Any, api: httpx.AsyncClient, store: LosingStore, make_agent: Any, clock: Any
) -> None:
    first = make_agent(api)
    for agent, incarnation in ((first, 1), (make_agent(api, instance="two"), 2)):
        with store.lose("register", times=2):
            assert (await api.post("/runs", content=encode_json(agent.registration))).status_code == 503
        clock.now += 1
        assert (await agent.register())["incarnation"] == incarnation
    await until_told(told, "registered", "registered")


async def test_so_has_a_note_of_a_loop_whose_batch_is_sent_again(told: Any, agent: Any, store: LosingStore) -> None:
    with store.lose("commit", times=2):
        sent = msgspec.structs.replace(agent.batch(1, [1]), user_notes=[UserNote(1, STARTED, "new data")])
        assert (await agent.post(sent)).status_code == 503
    assert (await agent.post(sent)).status_code == 200
    await until_told(told, "registered", "note")


async def test_so_has_a_removal(told: Any, agent: Any, store: LosingStore, make_agent: Any, clock: Any) -> None:
    other = make_agent(agent.client, run_id="tiny-2", instance="two")
    await other.register()
    with store.lose("unlink", times=2):
        assert (await agent.client.delete(other.run)).status_code == 503
    await until_told(told, "registered", "registered", "removed")
    repository, clock.now = agent.client.app.state.repository, clock.now + 86_400
    with store.lose("delete_if_expired", times=2), pytest.raises(RedisAway):
        await delete_expired(repository, [await repository.get("tiny-1")], Limits(keep_days=0.5))
    await until_told(told, "registered", "registered", "removed", "expired")
