"""Whatever is sent, the answer is a problem that says what to do, and never a 500."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from steadynorm_contract.problems import Problem
from steadynorm_server.runtime.embedded_redis import embedded_redis_server

UNKNOWN = ["nothing-here", "UPPER", "..%2F..", "%00", "a" * 101, "x" * 5000, "%F0%9F%92%A9", "a%7Db"]


def problem(answer: Any, status: int) -> Problem:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = msgspec.json.decode(answer.content, type=Problem)
    assert found.status == status
    assert found.title
    assert found.detail
    return found


@pytest.mark.parametrize("run_id", UNKNOWN)
async def test_an_unknown_run_is_not_found_anywhere(api: Any, agent: Any, run_id: str) -> None:
    from steadynorm_contract.codec import encode_batch

    url = f"/runs/{run_id}"
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "", {}),
        ("GET", "/series", {}),
        ("GET", "/parameters", {}),
        ("GET", "/events", {}),
        ("GET", "/audit", {}),
        ("GET", "/settings?after_revision=0&wait=30", {}),
        ("PATCH", "/settings", {"json": {"settings": {"gamma9": 1}}}),
        ("POST", "/finish", {"json": {"state": "failed"}}),
        ("POST", "/telemetry", {"content": encode_batch(agent.batch(1, [1]))}),
        ("DELETE", "", {}),
    ]
    for method, path, body in requests:
        found = problem(await api.request(method, url + path, **body), 404)
        if "%" not in run_id:
            assert repr(run_id) in found.detail


async def test_an_unknown_address_or_method_is_a_problem_too(api: Any) -> None:
    assert "/docs lists its routes" in problem(await api.get("/nothing"), 404).detail
    answer = await api.put("/runs")
    assert "does not take that method" in problem(answer, 405).detail
    assert answer.headers["allow"] == "GET, POST"
    assert (await api.post("/runs/any")).headers["allow"] == "DELETE, GET, PATCH"


REGISTRATIONS: list[tuple[bytes, int, str]] = [
    (b"", 400, "a body is required"),
    (b"{", 400, "not valid JSON"),
    (b"[]", 400, "not a valid"),
    (b"\xff", 400, "not valid JSON"),
    (b"{}", 400, "name"),
    (b'{"name": "x", "version": 2}', 400, "schema version 2 is not supported"),
    (b'{"name": 5}', 400, "name"),
    (b'{"name": " "}', 422, "name must not be empty"),
    (b'{"name": "' + b"n" * 201 + b'"}', 422, "name must have at most 200 characters"),
    (b'{"name": "x", "run_id": "No Good"}', 422, "run_id must match"),
    (b'{"name": "x", "run_id": "a}b"}', 422, "run_id must match"),
    (b'{"name": "x", "run_id": "good\\n"}', 422, "run_id must match"),
    (b'{"name": "x", "settings": {"gamma1": 1}}', 422, "gamma1 must be in [0, 1)"),
    (b'{"name": "x", "settings": {"gamma1": NaN}}', 400, "not valid JSON"),
    (b'{"name": "x", "settings": {"gamma9": 1}}', 400, "gamma9"),
    (b'{"name": "x", "parameters": [["a", [1], "f"], ["a", [1], "f"]]}', 422, "parameters must have different names"),
    (b'{"name": "x", "parameters": [["a", [-1], "f"]]}', 422, "parameters must have shapes"),
    (b'{"name": "x", "parameters": [["", [1], "f"]]}', 422, "parameters must have names"),
    (b'{"name": "x", "parameters": [["a"]]}', 400, "not a valid"),
    (b'{"name": "x", "step": -1}', 422, "step must be a whole number"),
    (b'{"name": "x", "step": 9007199254740992}', 422, "step must be a whole number"),
    (b'{"name": "x", "step": 1e300}', 400, "not a valid"),
    (b'{"name": "x", "applied_revision": 99999999999999999999999999}', 422, "a number beyond 2**53"),
    (b'{"name": "x", "applied_revision": 9223372036854775808}', 422, "applied_revision must be"),
    (b'{"name": "x", "world_size": 0}', 422, "world_size must be"),
    (b'{"name": "x", "detail_every": 0}', 422, "detail_every must be"),
    (b'{"name": "x", "allow": ["gamma9"]}', 422, "allow must name settings"),
    (b'{"name": "\\ud800"}', 400, "not valid JSON"),
    (b'{"name": ' + b"[" * 100_000, 400, "not"),
    (b'{"name": "x", "tags": {"a": "' + b"t" * 501 + b'"}}', 422, "tags must be"),
]


@pytest.mark.parametrize(("body", "status", "said"), REGISTRATIONS, ids=lambda value: str(value)[:50])
async def test_a_bad_registration_is_refused_with_a_reason(api: Any, body: bytes, status: int, said: str) -> None:
    assert said in problem(await api.post("/runs", content=body), status).detail
    assert (await api.get("/runs")).json()["runs"] == []


@pytest.mark.parametrize("body", [b"{}", b'{"state": "exploded"}', b"null", b'{"state": "failed", "incarnation": "x"}'])
async def test_a_bad_end_is_refused(agent: Any, body: bytes) -> None:
    problem(await agent.client.post(f"{agent.run}/finish", content=body), 400)
    assert (await agent.get())["state"] == "running"


async def test_a_store_that_is_away_is_said_soon_and_comes_back(
    serve: Any, tmp_path: Path, make_agent: Any, body_of: Any
) -> None:
    folder = tmp_path / "redis"
    with embedded_redis_server(folder) as url:
        client = await serve(url=url)
        agent = make_agent(client)
        await agent.register()
        assert (await client.get("http://test/readyz")).status_code == 200
    began = time.monotonic()
    requests = [
        await client.get("http://test/readyz"),
        await client.get("/runs"),
        await client.get("http://test/metrics"),
        await client.post("/runs", content=body_of(agent.registration)),
        await agent.post(agent.batch(1, [1])),
        await agent.change(0, {"gamma2": 0.9}),
        await client.get("/runs/tiny-1/settings?after_revision=0&wait=30"),
    ]
    for answer in requests:
        assert "Redis does not answer" in problem(answer, 503).detail
        assert int(answer.headers["retry-after"]) > 0
    assert time.monotonic() - began < 20
    assert (await client.get("http://test/healthz")).status_code == 200
    with embedded_redis_server(folder):  # the same folder, hence the same socket
        await agent.send([1])
        assert (await agent.get())["counters"]["steps"] == 1


async def test_a_full_store_is_a_503_too(agent: Any, store_url: str) -> None:
    import redis

    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.config_set("maxmemory", 1)
        try:
            answer = await agent.post(agent.batch(1, [1]))
            assert "refuses this now" in problem(answer, 503).detail
        finally:
            client.config_set("maxmemory", 0)
    await agent.send([1])
    assert (await agent.get())["counters"]["steps"] == 1


async def test_the_log_has_the_traceback_of_what_a_store_refused_by_a_fault_of_ours(
    agent: Any, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    import redis

    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.delete("steadynorm:{tiny-1}:events")
        client.set("steadynorm:{tiny-1}:events", "no stream")
    answer = await agent.client.get(f"{agent.run}/events")
    assert "traceback" in problem(answer, 500).detail
    assert any(record.exc_info and "WRONGTYPE" in str(record.exc_info[1]) for record in caplog.records)


async def test_the_schema_describes_the_contract(api: Any) -> None:
    document = (await api.get("http://test/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"RunDetail", "Settings", "TelemetryBatch", "Problem", "Change"} <= set(schemas)
    assert "HTTPValidationError" not in schemas
    patch = document["paths"]["/api/v1/runs/{run_id}/settings"]["patch"]
    assert patch["requestBody"]["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Change"

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    assert {name.rpartition("/")[2] for name in references(document)} <= set(schemas)
