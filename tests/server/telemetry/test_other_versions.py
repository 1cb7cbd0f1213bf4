"""Agents of other versions with this server: they work together, or one sentence names both and says what to do."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from steadynorm_contract import __version__
from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.settings import Settings

EARLIER, LATER = "0.0.1", "99.1.0"


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough."""
    return empty_valkey


def sentence(agent: str, mend: str) -> str:
    return f"The agent is steadynorm {agent} and the server is {__version__}: {mend}."


def by(agent: str) -> dict[str, str]:
    return {"User-Agent": f"steadynorm-agent/{agent}"}


async def test_what_a_later_agent_sends_and_this_server_cannot_know_is_one_sentence(agent: Any) -> None:
    known = json.loads(encode_json(agent.registration))
    batch = msgspec.msgpack.decode(encode_batch(agent.batch(1)))
    note = {"kind": "of_later", "step": 1, "time": 1.0, "rank": 0, "message": "?"}
    report = msgspec.to_builtins(agent.applied(1, 1))
    report["settings"]["warmth"] = 0.7
    sent = {
        "a setting": ("/runs", json.dumps(known | {"settings": known["settings"] | {"warmth": 0.7}}).encode()),
        "a schema": ("/runs", json.dumps(known | {"version": 2}).encode()),
        "another schema": (f"{agent.run}/telemetry", msgspec.msgpack.encode(batch | {"version": 2})),
        "a kind": (f"{agent.run}/telemetry", msgspec.msgpack.encode(batch | {"notes": [note]})),
        "a report": (f"{agent.run}/telemetry", msgspec.msgpack.encode(batch | {"applied": [report]})),
        "a value": ("/runs", json.dumps(known | {"settings": {"mode": "anneal"}}).encode()),
    }
    said = sentence(LATER, f"upgrade the server, or install steadynorm=={__version__} in the job")
    for what, (path, body) in sent.items():
        answer = await agent.client.post(path, content=body, headers=by(LATER))
        assert answer.status_code in (400, 422), what
        assert answer.json()["detail"].endswith(said), what
        ours = await agent.client.post(path, content=body, headers=by(__version__))
        assert "The agent is steadynorm" not in ours.json()["detail"], what
    assert (await agent.get())["counters"]["steps"] == 0


async def test_fields_of_a_later_agent_beside_its_settings_are_left_out(agent: Any) -> None:
    body = json.loads(encode_json(agent.registration)) | {"of_later": 1}
    assert (await agent.client.post("/runs", content=json.dumps(body), headers=by(LATER))).status_code == 200
    batch = msgspec.msgpack.decode(encode_batch(agent.batch(1, [1]))) | {"of_later": [1, 2]}
    sent = await agent.client.post(f"{agent.run}/telemetry", content=msgspec.msgpack.encode(batch), headers=by(LATER))
    assert sent.json()["acknowledged"] == 1


async def test_an_earlier_agent_of_another_schema_is_told_which_version_to_install(agent: Any) -> None:
    body = msgspec.msgpack.encode({"version": 0, "incarnation": 1, "sequence": 1})
    answer = await agent.client.post(f"{agent.run}/telemetry", content=body, headers=by(EARLIER))
    assert answer.json()["detail"] == (
        "schema version 0 is not supported, only 1 is. Upgrade the agent. "
        + sentence(EARLIER, f"install steadynorm=={__version__} in the job")
    )


async def test_an_earlier_agent_that_has_fewer_settings_and_fields_is_served(agent: Any) -> None:
    """As one was that knew neither recovery nor spike_fade: what it does not say is at its default."""
    few = {"version": 1, "name": "old", "run_id": "old-1", "instance": "a", "settings": {"gamma1": 0.5}}
    answer = await agent.client.post("/runs", content=json.dumps(few), headers=by(EARLIER))
    assert answer.status_code == 201
    told = answer.json()
    assert told["server_version"] == __version__
    assert told["defaults"] == msgspec.to_builtins(Settings())
    assert told["desired"]["settings"] == told["defaults"] | {"gamma1": 0.5}
    batch = msgspec.msgpack.encode({"incarnation": 1, "sequence": 1})
    assert (await agent.client.post("/runs/old-1/telemetry", content=batch)).json()["acknowledged"] == 1
