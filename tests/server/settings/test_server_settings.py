"""Desired settings: changed on condition, audited, waited for; never half, never by accident."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from steadynorm_contract.changes import PRESETS
from steadynorm_contract.settings import SETTING_RULES, Settings

DEFAULTS = msgspec.to_builtins(Settings())


async def test_a_change_makes_the_next_revision(agent: Any) -> None:
    answer = await agent.change(0, {"gamma2": 0.99, "mode": "observe"}, reason="spikes since step 4000")
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"1"'
    assert answer.json() == {"revision": 1, "settings": DEFAULTS | {"gamma2": 0.99, "mode": "observe"}}
    shown = await agent.client.get(f"{agent.run}/settings")
    assert shown.json() == answer.json()
    assert shown.headers["etag"] == '"1"'


async def test_a_change_of_nothing_makes_no_revision(agent: Any) -> None:
    for settings in ({}, {"gamma2": 0.999}):
        answer = await agent.change(0, settings)
        assert (answer.status_code, answer.json()["revision"]) == (200, 0)
    assert (await agent.get("/audit"))["entries"] == []


async def test_a_preset_is_stored_as_the_settings_that_it_stands_for(agent: Any) -> None:
    answer = await agent.change(0, {"preset": "robust", "gamma1": 0.7})
    assert answer.json()["settings"] == DEFAULTS | PRESETS["robust"] | {"gamma1": 0.7}
    entry = (await agent.get("/audit"))["entries"][0]
    assert entry["after"] == {"gamma1": 0.7} | {name: PRESETS["robust"][name] for name in ("spike_limit", "spike_fade")}
    refused = await agent.change(1, {"preset": "fast"})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "preset")


async def test_of_two_changes_to_one_revision_one_wins(agent: Any) -> None:
    responses = await asyncio.gather(agent.change(0, {"gamma2": 0.9}), agent.change(0, {"gamma2": 0.8}))
    assert sorted(answer.status_code for answer in responses) == [200, 412]
    lost = next(answer for answer in responses if answer.status_code == 412)
    assert "Read them again" in lost.json()["detail"]
    won = next(answer for answer in responses if answer.status_code == 200)
    assert (await agent.get("/settings")) == won.json()
    assert len((await agent.get("/audit"))["entries"]) == 1


@pytest.mark.parametrize("tag", ["0", '"0"', ' "0" '])
async def test_the_revision_is_taken_with_or_without_quotes(agent: Any, tag: str) -> None:
    assert (await agent.change(tag, {"gamma2": 0.9})).status_code == 200


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        (None, 428),
        ("*", 400),
        ('W/"0"', 400),
        ('"zero"', 400),
        ('"0", "1"', 400),
        ('"-1"', 400),
        ("", 400),
        ('"1"', 412),
    ],
)
async def test_without_the_right_revision_nothing_changes(agent: Any, tag: str | None, status: int) -> None:
    answer = await agent.change(tag, {"gamma2": 0.9})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if status in (400, 428):
        assert 'If-Match: "3"' in answer.json()["detail"]
    assert (await agent.get("/settings")) == {"revision": 0, "settings": DEFAULTS}


BAD = [
    ("mode", '"on"'),
    ("mode", "1"),
    ("gamma1", "1.0"),
    ("gamma1", "-0.1"),
    ("gamma2", "0.99999999999"),
    ("gamma2", '"0.9"'),
    ("gamma2", "true"),
    ("gamma2", "null"),
    ("gamma2", "NaN"),
    ("gamma2", "Infinity"),
    ("gamma2", "1e999"),
    ("gamma1", "9" * 400),
    ("eps", "0"),
    ("eps", "0.01"),
    ("spike_limit", "1"),
    ("spike_limit", "-Infinity"),
    ("spike_fade", '"yes"'),
    ("clip_norm", "-1"),
    ("transfer", '"smooth"'),
    ("lr_scale", "10.5"),
    ("lr_scale", "-1"),
    ("paused", "1"),
    ("stop", '"yes"'),
    ("reset_generation", "-1"),
    ("reset_generation", "1.5"),
    ("checkpoint_generation", "4294967296"),
    ("gamma3", "0.5"),
    ("\\u0000", "[[]]"),
    ("recovery", '"on"'),
    ("rollback_generation", "-1"),
    ("rollback_to", '"newest"'),
    ("lr", "-0.1"),
    ("lr", '"auto"'),
    ("detail_every", "0"),
    ("detail_every", "1001"),
    ("detail_every", "2.5"),
]


def test_every_setting_has_a_bad_value_here() -> None:
    assert {name for name, _ in BAD} >= set(SETTING_RULES)


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{name}={value[:20]}" for name, value in BAD])
async def test_a_bad_value_is_refused_by_field_and_rule(agent: Any, field: str, value: str) -> None:
    body = f'{{"settings": {{"lr_scale": 0.5, "{field}": {value}}}}}'.encode()
    answer = await agent.client.patch(f"{agent.run}/settings", content=body, headers={"If-Match": '"0"'})
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    name = field.encode().decode("unicode_escape")
    assert error["field"] == name
    assert error["rule"] == SETTING_RULES.get(name, ("must be a known setting",))[0]
    assert error["rule"] in error["message"] or name not in SETTING_RULES
    assert await agent.get("/settings") == {"revision": 0, "settings": DEFAULTS}
    assert (await agent.get("/audit"))["entries"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"settings": []}',
        b'{"reason": "no settings"}',
        b'{"settings": {"gamma1": NaN}',
        b'{"settings": {}, "reason": NaN}',
        b'{"settings": {"gamma1": ' + b"9" * 5000 + b"}}",
        b'{"settings": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b'{"settings": {"gamma1": ' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
        b'{"settings": {"gamma1": 0.5}, "reason": "\\ud800"}',
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
async def test_a_broken_change_is_refused(agent: Any, body: bytes) -> None:
    answer = await agent.client.patch(f"{agent.run}/settings", content=body, headers={"If-Match": '"0"'})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["detail"]
    assert (await agent.get("/settings"))["revision"] == 0


async def test_a_new_revision_does_not_inherit_a_verdict_on_its_number(agent: Any) -> None:
    await agent.send([1], applied=[agent.applied(1, 1, "rejected", "from before the store was emptied")])
    assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    assert (await agent.get())["desired"]["state"] == "pending"
    assert [entry["state"] for entry in (await agent.get("/audit"))["entries"]] == ["pending"]


async def test_counters_only_grow(agent: Any) -> None:
    await agent.change(0, {"reset_generation": 2})
    answer = await agent.change(1, {"reset_generation": 1})
    assert answer.status_code == 422
    assert "it is 2 already" in answer.json()["errors"][0]["message"]


async def test_a_long_reason_is_refused(agent: Any) -> None:
    answer = await agent.change(0, {"gamma2": 0.9}, reason="x" * 501)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "reason"
    assert (await agent.change(0, {"gamma2": 0.9}, reason="x" * 500)).status_code == 200


async def test_the_audit_tells_the_life_of_every_revision(agent: Any, clock: Any) -> None:
    await agent.change(0, {"gamma2": 0.9}, reason="first")
    clock.now += 5
    await agent.change(1, {"gamma1": 0.5, "spike_limit": 10})
    await agent.change(2, {"mode": "off"})
    states = [entry["state"] for entry in (await agent.get("/audit"))["entries"]]
    assert states == ["pending", "superseded", "superseded"]
    assert (await agent.get())["desired"]["state"] == "pending"

    # The agent had taken revision 1 before it heard of the others, and will not have its mode changed.
    await agent.send([7], applied=[agent.applied(1, 7, gamma2=0.9)])
    await agent.send([8], applied=[agent.applied(3, 8, "rejected", "mode is not in `allow`", gamma2=0.9)])
    newest, middle, oldest = (await agent.get("/audit"))["entries"]
    assert (oldest["state"], oldest["applied_step"], oldest["applied_time"]) == ("applied", 7, 1_700_000_007.0)
    assert (oldest["actor"], oldest["reason"]) == ("local", "first")
    assert (oldest["before"], oldest["after"]) == ({"gamma2": 0.999}, {"gamma2": 0.9})
    assert (middle["state"], middle["applied_step"]) == ("superseded", None)
    assert middle["before"] == {"gamma1": 0.6, "spike_limit": None}
    assert middle["after"] == {"gamma1": 0.5, "spike_limit": 10}
    assert (newest["state"], newest["rejection"]) == ("rejected", "mode is not in `allow`")
    assert {each["remark"] for each in (newest, middle, oldest)} == {""}
    shown = await agent.get()
    assert (shown["desired"]["state"], shown["desired"]["reason"]) == ("rejected", "mode is not in `allow`")
    assert (shown["applied"]["revision"], shown["applied"]["step"]) == (1, 7)
    assert shown["applied"]["settings"]["gamma2"] == 0.9
    assert [(event["kind"], event["value"]) for event in await agent.events()] == [("rejected", 3)]


async def test_what_an_agent_says_of_a_change_that_it_applied_is_told(agent: Any) -> None:
    await agent.change(0, {"stop": True})
    await agent.send([1], applied=[agent.applied(1, 1, "applied", "the loop does not look", stop=True)])
    (entry,) = (await agent.get("/audit"))["entries"]
    assert (entry["state"], entry["remark"], entry["rejection"]) == ("applied", "the loop does not look", "")
    assert (await agent.get())["desired"]["reason"] == "the loop does not look"


async def test_a_wait_ends_when_another_server_takes_a_change(agent: Any, serve: Any) -> None:
    other = await serve()
    waiting = asyncio.create_task(agent.get("/settings", after_revision=0, wait=30))
    await _until_watched(agent)
    began = time.monotonic()
    changed = await other.patch(
        f"{agent.run}/settings", json={"settings": {"gamma2": 0.9}}, headers={"If-Match": '"0"'}
    )
    assert changed.status_code == 200
    assert await waiting == changed.json()
    assert time.monotonic() - began < 5


async def test_a_wait_ends_at_once_when_there_is_something_newer(agent: Any) -> None:
    await agent.change(0, {"gamma2": 0.9})
    began = time.monotonic()
    assert (await agent.get("/settings", after_revision=0, wait=60))["revision"] == 1
    assert time.monotonic() - began < 5


async def test_a_wait_without_news_ends_with_what_there_is(agent: Any) -> None:
    began = time.monotonic()
    assert (await agent.get("/settings", after_revision=0, wait=0.2))["revision"] == 0
    assert time.monotonic() - began >= 0.2


async def test_a_change_whose_message_was_lost_is_found_on_reconnection(agent: Any, store_url: str) -> None:
    import redis

    waiting = asyncio.create_task(agent.get("/settings", after_revision=0, wait=30))
    await _until_watched(agent)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        # As a lost message looks: the settings change, nothing is published, the subscription breaks.
        client.hset("steadynorm:{tiny-1}:run", "desired_revision", "1")
        client.client_kill_filter(_type="pubsub")
    began = time.monotonic()
    assert (await waiting)["revision"] == 1
    assert time.monotonic() - began < 5


async def test_a_wait_ends_when_the_server_stops_or_the_run_goes(agent: Any) -> None:
    waiting = asyncio.create_task(agent.client.get(f"{agent.run}/settings?after_revision=0&wait=60"))
    await _until_watched(agent)
    assert (await agent.client.delete(agent.run)).status_code == 204
    assert (await asyncio.wait_for(waiting, 10)).status_code == 404

    await agent.register()
    waiting = asyncio.create_task(agent.client.get(f"{agent.run}/settings?after_revision=0&wait=60"))
    await _until_watched(agent)
    agent.client.app.state.stopping.set()
    assert (await asyncio.wait_for(waiting, 10)).json()["revision"] == 0


@pytest.mark.parametrize(
    "query", [{"wait": "nan"}, {"wait": "61"}, {"wait": "-1"}, {"after_revision": "-1"}, {"wait": "x"}]
)
async def test_a_wrong_wait_is_refused(agent: Any, query: dict[str, str]) -> None:
    answer = await agent.client.get(f"{agent.run}/settings", params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in query


async def _until_watched(agent: Any) -> None:
    """The long-poll has read the settings, which notes until when somebody listens, and waits."""
    repository = agent.client.app.state.repository
    async with asyncio.timeout(10):  # nothing tells that a request has begun to wait
        while not (await repository.get(agent.registration.run_id)).poll_expires_at:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_the_agent_does_not_allow_is_refused_before_it_can_block_later_changes(
    api: Any, make_agent: Any
) -> None:
    agent = make_agent(api, allow=["gamma2"])
    await agent.register()
    refused = await agent.change(0, {"mode": "observe", "gamma2": 0.9})
    assert refused.status_code == 422
    assert refused.json()["detail"] == "mode must be among those that the run's agent allows: gamma2."
    assert (await agent.get("/audit"))["entries"] == []
    assert (await agent.change(0, {"mode": "stabilize", "gamma2": 0.9})).status_code == 200, "mode is not changed"


async def test_back_to_what_the_job_trains_with_is_allowed_whatever_its_agent_allows_now(
    api: Any, make_agent: Any
) -> None:
    agent = make_agent(api)
    await agent.register()
    assert (await agent.change(0, {"lr_scale": 0.5})).status_code == 200
    limited = make_agent(api, allow=["gamma2"])  # the job is started again, with a limit
    await limited.register()
    refused = await limited.change(1, {"lr_scale": 0.25})
    assert refused.status_code == 422, refused.text
    assert (await limited.change(1, {"lr_scale": 1.0})).status_code == 200
