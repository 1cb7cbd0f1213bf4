"""The audit stream: a line for each thing done, with the hashes of the run's own chain; it outlives the run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisAway
from tests.support.server import STARTED, as_if_restarted

from steadynorm_contract.audit import SettingsChange, entry_hash
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import UserNote
from steadynorm_server import audit_log
from steadynorm_server.errors import StartError
from steadynorm_server.retention.policy import Limits, delete_expired

WHEN = {"scalar": "target_min", "comparison": "<", "value": 0.3}


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough."""
    return empty_valkey


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "audit.jsonl"
    audit_log.configure(str(path))
    yield path
    audit_log.configure("")


def lines(stream: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.read_text("utf-8").splitlines()]


async def test_each_thing_that_was_done_is_a_line_that_outlives_its_run(agent: Any, stream: Path) -> None:
    await agent.send([1, 2])
    assert (await agent.change(0, {"gamma2": 0.9}, reason="calm")).status_code == 200
    rule = {"id": "low", "when": WHEN, "settings": {"reset_generation": "+1"}}
    assert (await agent.client.put(f"{agent.run}/rules", json={"rules": [rule]})).status_code == 200
    made = await agent.client.post(f"{agent.run}/schedules", json={"from_step": 500, "settings": {"gamma2": 0.8}})
    assert (await agent.client.delete(f"{agent.run}/schedules/{made.json()['id']}")).status_code == 204
    assert (await agent.client.put(f"{agent.run}/retention", json={"max_mib": 16})).status_code == 200
    assert (await agent.client.post(f"{agent.run}/notes", json={"text": "new data"})).status_code == 201
    assert (await agent.client.patch(agent.run, json={"name": "renamed"})).status_code == 200
    assert (await agent.client.delete(agent.run, params={"reason": "wrong data"})).status_code == 204
    assert (await agent.client.get(agent.run)).status_code == 404
    told = lines(stream)
    assert [line["kind"] for line in told] == [
        *("settings", "rules", "schedule", "unscheduled", "retention", "note", "lifecycle", "removed"),
    ]
    assert {(line["run_id"], line["name"], line["actor"]) for line in told} == {("tiny-1", "tiny", "local")}
    entry = told[0]["entry"]
    change = SettingsChange(**{name: entry[name] for name in SettingsChange.__struct_fields__})
    assert entry["hash"] == entry_hash("", "tiny-1", change)
    assert (entry["reason"], entry["after"]) == ("calm", {"gamma2": 0.9})
    assert told[5]["entry"]["text"] == "new data"
    assert (told[6]["entry"]["after"], len(told[6]["entry"]["hash"])) == ({"name": "renamed"}, 64)
    assert told[-1] | {"time": 0} == {
        "time": 0, "kind": "removed", "run_id": "tiny-1", "actor": "local", "name": "tiny", "reason": "wrong data",
        "audit_head": entry["hash"], "lifecycle_head": told[6]["entry"]["hash"], "notes_head": told[5]["entry"]["hash"],
    }  # fmt: skip


async def test_a_removal_is_told_though_the_index_cannot_be_written(
    agent: Any, make_agent: Any, stream: Path, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = agent.client.app.state.repository
    await make_agent(agent.client, run_id="gone-1", instance="two").register()

    async def refused(*_: str) -> None:
        raise RedisAway("away")

    monkeypatch.setattr(repository.index, "remove", refused)
    assert (await agent.client.delete("/runs/gone-1")).status_code == 503
    clock.now += 86_400
    with pytest.raises(RedisAway):
        await delete_expired(repository, [await repository.get("tiny-1")], Limits(keep_days=0.5))
    told = [(line["kind"], line["run_id"]) for line in lines(stream)]
    assert told == [("registered", "gone-1"), ("removed", "gone-1"), ("expired", "tiny-1")]


async def test_what_an_agent_brings_beside_telemetry_is_told(
    stream: Path, agent: Any, make_agent: Any, store_url: str
) -> None:
    await agent.send([1], user_notes=[UserNote(1, STARTED, "new data"), UserNote(1, STARTED, "warmed up")])
    with redis.Redis.from_url(store_url, protocol=2) as client:
        before = client.hget("steadynorm:{tiny-1}:run", "desired_revision")
        await agent.change(0, {"gamma2": 0.5})
        client.hset("steadynorm:{tiny-1}:run", "desired_revision", before or b"0")  # Redis loses it
    as_if_restarted(store_url)
    await agent.send([2], applied=[agent.applied(1, 2, gamma2=0.5)])
    await agent.send([3])  # no line: nothing but telemetry
    await agent.register()  # none either: it asks again
    as_if_restarted(store_url)
    after = make_agent(agent.client, instance="two", step=3, applied_revision=2, settings=Settings(gamma2=0.25))
    await after.register()
    told = lines(stream)
    assert [(line["kind"], line["actor"]) for line in told] == [
        ("registered", "local"), ("note", "training loop"), ("note", "training loop"), ("settings", "local"),
        ("adopted", "local"), ("registered", "local"),
    ]  # fmt: skip
    assert {line["name"] for line in told} == {"tiny"}
    assert [line["entry"]["text"] for line in told[1:3]] == ["new data", "warmed up"]
    assert told[2]["entry"]["previous"] == told[1]["entry"]["hash"]
    held = [(told[at]["entry"]["revision"], told[at]["entry"]["settings"]["gamma2"]) for at in (0, 4, 5)]
    assert held == [(0, 0.999), (1, 0.5), (2, 0.25)]
    began = [told[at]["entry"] for at in (0, 5)]
    assert [(each["incarnation"], each["step"], each["adopted"]) for each in began] == [(1, 0, True), (2, 3, True)]


async def test_what_was_refused_is_no_line(agent: Any, stream: Path) -> None:
    assert (await agent.change(7, {"gamma2": 0.9})).status_code == 412
    assert (await agent.change(0, {"gamma2": 9.0})).status_code == 422
    assert lines(stream) == []


def test_half_a_surrogate_pair_is_written_as_an_escape(stream: Path) -> None:
    audit_log.record("note", "tiny-1", "a\udcff", text="b\udcff")
    (line,) = lines(stream)
    assert (line["actor"], line["text"]) == ("a\\udcff", "b\\udcff")


def test_a_file_that_logrotate_moved_is_opened_anew(stream: Path) -> None:
    audit_log.record("note", "tiny-1", "ada")
    stream.rename(stream.with_suffix(".1"))
    audit_log.record("note", "tiny-1", "bob")
    assert [line["actor"] for line in lines(stream)] == ["bob"]


def test_standard_output_is_a_stream_too(capsys: pytest.CaptureFixture[str]) -> None:
    audit_log.configure("-")
    audit_log.record("expired", "tiny-1", "retention")
    audit_log.configure("")
    audit_log.record("expired", "tiny-2", "retention")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["run_id"] == "tiny-1"


async def test_a_line_that_cannot_be_written_is_counted_said_once_and_fails_no_change(
    agent: Any, stream: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "_said_at", -math.inf)
    metric = "steadynorm_server_unwritten_audit_lines_total"
    audit_log.configure(str(tmp_path / "folder.jsonl"))
    (tmp_path / "folder.jsonl").rename(stream)
    (tmp_path / "folder.jsonl").mkdir()  # what is there now is no file
    for revision in (0, 1):
        assert (await agent.change(revision, {"gamma2": 0.9 - revision / 10})).status_code == 200
    assert f"{metric} 2.0" in (await agent.client.get("http://test/metrics")).text
    assert sum("STEADYNORM_AUDIT_LOG cannot be written" in line for line in caplog.messages) == 1
    (tmp_path / "folder.jsonl").rmdir()
    assert (await agent.change(2, {"gamma2": 0.5})).status_code == 200
    assert len(lines(tmp_path / "folder.jsonl")) == 1


def test_a_full_disk_is_counted_too() -> None:
    unwritten: list[int] = []
    audit_log.count_unwritten(lambda: unwritten.append(1))
    audit_log.configure("/dev/full")
    audit_log.record("note", "tiny-1", "ada")
    audit_log.configure("")
    assert unwritten == [1]


def test_a_file_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="STEADYNORM_AUDIT_LOG must be `-` or a file that can be written"):
        audit_log.configure(str(tmp_path / "none" / "audit.jsonl"))
