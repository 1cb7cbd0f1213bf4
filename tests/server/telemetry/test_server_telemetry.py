"""A batch is stored once, whole, in order, or refused with a reason."""

from __future__ import annotations

import asyncio
import math
import struct
from typing import Any

import httpx
import msgspec
import pytest

from steadynorm_contract.codec import encode_batch
from steadynorm_contract.problems import UNSUPPORTED_VERSION
from steadynorm_contract.telemetry import (
    MAX_BATCH_BYTES,
    SCALAR_COLUMNS,
    AgentCounters,
    Parameter,
    ParameterRows,
    StepScalars,
    TelemetryBatch,
    floats_to_bytes,
)
from steadynorm_server.runs.repository import RunRepository

ONE_STEP = 4 * len(SCALAR_COLUMNS)  # bytes of a step's scalars


async def everything(agent: Any) -> list[Any]:
    """All that is told of the run."""
    paths = ("", "/events", "/audit", "/parameters", "/series?names=loss,raw_norm/head.weight")
    return [await agent.get(path) for path in paths]


async def test_a_retried_batch_adds_nothing(agent: Any) -> None:
    sent = agent.batch(1, [1, 2, 3], spikes=2, spike_ratio_max=40.0)
    sent.rows = agent.rows([1], [[[1] * 5, [1, 1, 1, 1, 40]]])
    first = (await agent.post(sent)).json()
    assert (first["acknowledged"], first["pace_s"]) == (1, 1.0)
    assert (await agent.post(sent)).json() == first
    before = await everything(agent)
    for _ in range(3):
        assert (await agent.post(sent)).json() == first
    assert await everything(agent) == before
    assert before[0]["counters"]["spikes"] == 6


async def test_batches_sent_at_once_are_each_stored_once(agent: Any) -> None:
    sent = [agent.batch(1, [1, 2, 3])] * 6
    responses = await asyncio.gather(*map(agent.post, sent))
    assert [answer.json()["acknowledged"] for answer in responses] == [1] * 6
    assert (await agent.get())["counters"]["steps"] == 3
    assert sum((await agent.get("/series", names="loss"))["series"]["loss"]["count"]) == 3


async def test_an_answer_brings_the_desired_settings(agent: Any) -> None:
    await agent.change(0, {"gamma2": 0.9})
    answer = await agent.send([1])
    assert answer["acknowledged"] == 1
    assert (answer["desired"]["revision"], answer["desired"]["settings"]["gamma2"]) == (1, 0.9)


async def test_a_batch_may_be_empty_and_keeps_the_run_alive(agent: Any, clock: Any) -> None:
    clock.now += 20
    await agent.send()
    shown = await agent.get()
    assert (shown["last_seen"], shown["step"], shown["counters"]["steps"]) == (clock.now, 0, 0)


async def test_columns_come_in_any_order_and_number(agent: Any) -> None:
    steps, times = [1, 2], struct.pack("<2d", 1.0, 2.0)
    columns = ("from_the_future", "raw_norm", "loss")
    scalars = StepScalars(steps, times, floats_to_bytes([9, 5, 3, 9, 6, 2]), columns)
    few = ParameterRows([1], 2, floats_to_bytes([7, 8]), ("raw_norm",))
    answer = await agent.post(TelemetryBatch(incarnation=1, sequence=1, scalars=scalars, rows=few))
    assert answer.status_code == 200, answer.text
    none = StepScalars(steps, times, b"", ())
    assert (await agent.post(TelemetryBatch(incarnation=1, sequence=2, scalars=none))).status_code == 200
    series = (await agent.get("/series", names="raw_norm,loss,target_min"))["series"]
    assert series["raw_norm"]["count"] == [2, 2]  # the run went back to step 1
    assert series["raw_norm"]["max"] == [5, 6]
    assert series["loss"]["max"] == [3, 2]
    assert series["target_min"]["max"] == [None, None]
    assert [each["raw_norm"] for each in (await agent.get("/parameters"))["parameters"]] == [7, 8]


async def test_counters_of_the_agent_add_up_over_incarnations(
    api: httpx.AsyncClient, agent: Any, make_agent: Any
) -> None:
    await agent.send([1], counters=AgentCounters(produced=9, dropped=3, errors=1))
    await agent.send([2], counters=AgentCounters(produced=10, dropped=4, errors=1))
    restarted = make_agent(api, instance="another", step=1)
    await restarted.register()
    assert (await restarted.get())["step"] == 1
    await restarted.send([2], counters=AgentCounters(dropped=2))
    shown = await restarted.get()
    assert (shown["counters"]["dropped"], shown["counters"]["agent_errors"]) == (6, 1)
    assert shown["agent"]["dropped"] == 2
    assert [event["kind"] for event in await restarted.events()] == ["agent_error"]


def _scalars(**changes: Any) -> StepScalars:
    good: dict[str, Any] = {"steps": [1], "times": struct.pack("<d", 1.0), "data": bytes(ONE_STEP)}
    return StepScalars(**(good | changes))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scalars": _scalars(steps=[-1])}, "scalars.steps"),
        ({"scalars": _scalars(steps=[2**53])}, "scalars.steps"),
        ({"scalars": _scalars(times=struct.pack("<d", math.nan))}, "scalars.times"),
        ({"rows": ParameterRows([1], 3, bytes(60))}, "rows.parameters"),
        ({"rows": ParameterRows([-5], 2, bytes(40))}, "rows.steps"),
        ({"sequence": 0}, "sequence"),
        ({"incarnation": 0}, "incarnation"),
        ({"counters": AgentCounters(dropped=-1)}, "counters.dropped"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(agent: Any, changes: dict[str, Any], field: str) -> None:
    before = await everything(agent)
    answer = await agent.post(TelemetryBatch(**({"incarnation": 1, "sequence": 1} | changes)))
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert await everything(agent) == before


GOOD = encode_batch(TelemetryBatch(incarnation=1, sequence=1, scalars=_scalars()))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"\xc1", "not a telemetry batch"),
        (GOOD[:-3], "not a telemetry batch"),
        (b'{"incarnation": 1}', "not a telemetry batch"),
        (msgspec.msgpack.encode({"version": 2, "incarnation": 1, "sequence": 1}), "schema version 2 is not supported"),
        (msgspec.msgpack.encode({"incarnation": "one", "sequence": 1}), "incarnation"),
        (b"\x91" * 100_000, "not a telemetry batch"),
        (GOOD.replace(bytes(ONE_STEP), bytes(ONE_STEP - 4) + b"\xff\xff\xff\xff")[:-40], "not a telemetry batch"),
        (
            msgspec.msgpack.encode(
                {
                    "incarnation": 1,
                    "sequence": 1,
                    "scalars": {"steps": [1, 2], "times": bytes(8), "data": bytes(ONE_STEP)},
                }
            ),
            f"expected {2 * ONE_STEP} bytes",
        ),
        (b"", "a body is required"),
    ],
)
async def test_broken_messages_are_refused_with_a_reason(agent: Any, body: bytes, said: str) -> None:
    answer = await agent.client.post(f"{agent.run}/telemetry", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.json()["type"] == UNSUPPORTED_VERSION) == said.startswith("schema version")
    assert said in answer.json()["detail"]
    assert (await agent.get())["counters"]["steps"] == 0


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "size"),
    [("POST", "/telemetry", 5_000_000), ("PATCH", "/settings", 100_000), ("POST", "", 34_000_000)],
)
async def test_a_body_too_large_is_refused_however_it_comes(
    agent: Any, chunked: bool, method: str, path: str, size: int
) -> None:
    sent = 0

    async def parts() -> Any:
        nonlocal sent
        for _ in range(0, size, 10_000):
            sent += 10_000
            yield bytes(10_000)

    url = agent.run + path if path else "/runs"
    answer = await agent.client.request(method, url, content=parts() if chunked else bytes(size))
    assert answer.status_code == 413
    assert "bytes" in answer.json()["detail"]


async def test_the_largest_batch_is_stored(agent: Any) -> None:
    steps = range(70_000)
    sent = agent.batch(1, steps, raw_norm=list(map(float, steps)))
    assert MAX_BATCH_BYTES - 200_000 < len(encode_batch(sent)) < MAX_BATCH_BYTES
    assert (await agent.post(sent)).status_code == 200
    series = (await agent.get("/series", names="raw_norm", points=1))["series"]["raw_norm"]
    assert (series["count"], series["min"], series["max"]) == ([70_000], [0], [69_999])


async def test_other_kinds_of_body_are_refused(agent: Any) -> None:
    url = f"{agent.run}/telemetry"
    answer = await agent.client.post(url, content=GOOD, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["title"]) == (415, "Unsupported Media Type")
    answer = await agent.client.post(url, content=GOOD, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    answer = await agent.client.post(url, content=GOOD, headers={"Content-Type": "application/msgpack; v=1"})
    assert answer.status_code == 200


async def test_a_large_model_stays_within_its_budget(
    agent: Any, repository: RunRepository, make_agent: Any, api: Any
) -> None:
    number = 20_000  # a raw row of 400 kB
    large = make_agent(api, run_id="large", parameters=[Parameter(f"p{at}", (1,), "bfloat16") for at in range(number)])
    await large.register()
    row = floats_to_bytes([1.0, 1.0, 1.0, 1.0, 1.0] * number)
    for step in range(40):
        await large.send([step], rows=ParameterRows([step], number, row))
    fields = await repository.redis.hash("steadynorm:{large}:run")
    assert int(fields[b"bytes:rows1"]) <= 8 * 2**20
    assert int(fields[b"bytes:rows256"]) <= 14 * 2**20
    series = await large.get("/series", names="raw_norm/p19999", points=1)
    assert series["series"]["raw_norm/p19999"]["count"] == [40]
