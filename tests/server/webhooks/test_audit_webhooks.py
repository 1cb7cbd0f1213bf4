"""Webhooks of the audit stream: who did what, in the order in which it was done, also of runs that are gone."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisAway
from tests.support.webhooks import Receiver, until

from steadynorm_contract.webhooks import AuditMessage
from steadynorm_server import audit_log
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.webhooks import queue
from steadynorm_server.webhooks.config import Webhook, WebhookError, read
from steadynorm_server.webhooks.payload import build_audit_payload


def entries(body: bytes) -> list[dict[str, Any]]:
    return msgspec.json.decode(body, type=AuditMessage).entries


def record(at: int, name: str = "tiny") -> None:
    audit_log.record("settings", f"{name}-1", "ada", name=name, entry={"after": {"gamma2": at}, "reason": "calm"})


async def test_who_did_what_arrives_signed_also_when_the_run_is_gone(
    agent: Any, receiver: Receiver, webhook: Callable[..., Webhook], send: Any
) -> None:
    await send(webhook(audit=True))
    await agent.send([1], spikes=1, spike_ratio_max=20)  # an event, which is none of its business
    assert (await agent.change(0, {"gamma2": 0.9}, reason="calm")).status_code == 200
    assert (await agent.client.delete(agent.run, params={"reason": "wrong data"})).status_code == 204
    got: list[dict[str, Any]] = []
    while len(got) < 2:
        post = await receiver.next()
        assert post.genuine
        got += entries(post.body)
    assert [(each["kind"], each["run_id"], each["actor"]) for each in got] == [
        ("settings", "tiny-1", "local"), ("removed", "tiny-1", "local"),
    ]  # fmt: skip
    assert got[1]["audit_head"] == got[0]["entry"]["hash"]


async def test_lines_keep_their_order_wait_for_redis_and_are_of_the_runs_that_it_names(
    receiver: Receiver, webhook: Callable[..., Webhook], send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = await send(webhook(audit=True, runs=("tiny",)))
    redis, tried = sending.repository.redis, asyncio.Event()
    real = redis.script

    async def away(name: str, *args: Any) -> Any:
        if name == "webhook_audit":
            tried.set()
            raise RedisAway("away")
        return await real(name, *args)

    with monkeypatch.context() as patched:
        patched.setattr(redis, "script", away)
        for at in range(150):
            record(at)
            record(at, "other")
        await tried.wait()
    got: list[int] = []
    while len(got) < 150:
        got += [each["entry"]["after"]["gamma2"] for each in entries((await receiver.next()).body)]
    assert got == list(range(150))


async def test_what_waits_at_the_end_is_sent_by_the_next_server_and_by_no_two(
    receiver: Receiver, webhook: Callable[..., Webhook], send: Any
) -> None:
    receiver.responses = [500] * 3
    first = await send(webhook(audit=True))
    record(1)
    await receiver.next()
    record(2)
    await first.stop()
    assert audit_log.listeners == []
    receiver.responses = []
    second, third = await send(webhook(audit=True)), await send(webhook(audit=True))
    await until(lambda: second.count("delivered") + third.count("delivered") == 2)
    posts = {post.id: post for post in [receiver.posts.get_nowait() for _ in range(receiver.posts.qsize())]}
    told = [each["entry"]["after"]["gamma2"] for post in posts.values() for each in entries(post.body)]
    assert told == [1, 2]


async def test_lines_without_room_are_counted(
    webhook: Callable[..., Webhook], send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_LINES", 3)
    sending = await send(webhook(audit=True), merge_s=600.0)
    for at in range(5):
        record(at)
    stored = sending.repository.redis
    while await stored.newest_entries("steadynorm:webhooks:{webhooks}:queue:on-call", 9) == []:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert len(await stored.newest_entries("steadynorm:webhooks:{webhooks}:queue:on-call", 9)) == 3
    await sending.dispatcher.update_waiting_metric()
    assert sending.registry.get_sample_value("steadynorm_webhook_audit_lines_dropped") == 2.0
    assert await stored.hash(RunKeys("tiny-1").run) == {}


def test_a_chat_reads_who_did_what_and_no_name_wakes_it() -> None:
    chat = Webhook(name="chat", url="https://chat.example", format="slack", audit=True)
    entry = {"after": {"paused": True, "gamma2": 0.9}, "reason": "<!channel>"}
    change = {"kind": "settings", "run_id": "r-1", "actor": "ada", "name": "@everyone", "entry": entry}
    gone = {"kind": "removed", "run_id": "r-2", "actor": "bob", "name": "old", "reason": "wrong data"}
    lines = [json.dumps(each).encode() for each in (change, gone)]
    text = json.loads(build_audit_payload(chat, "1", lines))["text"]
    assert html.unescape(text).replace("\u2060", "").splitlines() == [
        "*2 audit entries of 2 runs*",
        "ada: settings of @everyone (r-1): paused=True, gamma2=0.9 (<!channel>)",
        "bob: removed old (r-2): (wrong data)",
    ]
    assert "@everyone" not in text
    assert "<!" not in text
    (alone,) = json.loads(build_audit_payload(chat, "1", lines[1:]))["text"].splitlines()
    assert alone == "bob: removed old (r-2): (wrong data)"


def test_its_entry_names_no_kinds_of_events(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.toml"
    entry = '[[webhook]]\nname = "siem"\nformat = "slack"\nurl = "https://siem.example"\naudit = true\n'
    file.write_text(entry)
    assert read(file)[0].audit
    file.write_text(entry + 'kinds = ["stalled"]\n')
    with pytest.raises(WebhookError, match="kinds are of events, which one with audit = true is not sent"):
        read(file)
