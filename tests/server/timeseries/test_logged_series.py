"""Scalars under names of the loop's own: stored with every extreme, each NaN told, never beyond their bound."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from steadynorm_contract.codec import encode_batch
from steadynorm_contract.scalars import MAX_SCALAR_GROUPS, MAX_SCALARS, ScalarDescription, ScalarRecords
from steadynorm_contract.telemetry import TelemetryBatch
from steadynorm_server.timeseries import rollups

HOSTILE = '<b>&"reward"\\\' {x=1}'


async def series(agent: Any, *names: str, **query: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await agent.get("/series", name=list(names), **query))["series"]
    return found


@pytest.fixture
def little_room() -> Iterator[None]:
    """Levels that hold so little that a short run loses resolution."""
    levels = rollups.LOGGED.levels[:-1]
    budgets = [level.budget for level in levels]
    for level in levels:
        object.__setattr__(level, "budget", 20_000)
    yield
    for level, budget in zip(levels, budgets, strict=True):
        object.__setattr__(level, "budget", budget)


async def test_seldom_and_frequent_ones_lose_neither_an_extreme_nor_a_nan(agent: Any, little_room: None) -> None:
    draw = random.Random(5)
    sent: dict[int, float] = {}
    evaluated: dict[int, float] = {}
    bad: list[int] = []
    for first in range(1, 12_001, 500):
        steps = list(range(first, first + 500))
        values = [draw.lognormvariate(0, 2) for _ in steps]
        sent |= dict(zip(steps, values, strict=True))
        if first % 3000 == 1:
            bad.append(first + 7)
            values[7] = math.inf
            del sent[first + 7]
        seldom = [step for step in steps if step % 1000 == 0]
        evaluated |= {step: draw.random() for step in seldom}
        groups = [agent.logged(steps, entropy=values)]
        if seldom:
            groups.append(agent.logged(seldom, **{"eval/loss": [evaluated[step] for step in seldom]}))
        await agent.send(steps, logged=groups)
    for points in (7, 100, 1000):
        found = await series(agent, "entropy", "eval/loss", "nonfinite/entropy", points=points)
        assert sum(found["entropy"]["count"]) == len(sent)
        assert max(found["entropy"]["max"]) == pytest.approx(max(sent.values()), rel=1e-6)
        assert min(found["entropy"]["min"]) == pytest.approx(min(sent.values()), rel=1e-6)
        assert sum(found["eval/loss"]["count"]) == len(evaluated)
        assert None not in found["eval/loss"]["mean"]
        assert max(found["eval/loss"]["max"]) == pytest.approx(max(evaluated.values()), rel=1e-6)
        flags = found["nonfinite/entropy"]
        hit = [mean * count for mean, count in zip(flags["mean"], flags["count"], strict=True)]
        assert sum(hit) == pytest.approx(len(bad), rel=1e-4)
        assert max(flags["max"]) == 1
    detail = await agent.get()
    assert [(each["name"], each["nonfinite"], each["step"]) for each in detail["scalars"]] == [
        ("entropy", len(bad), 12_000),
        ("eval/loss", 0, 12_000),
    ]
    assert detail["scalars"][1]["value"] == pytest.approx(evaluated[12_000], rel=1e-6)


async def test_values_that_come_late_as_those_of_all_ranks_do_are_at_their_steps(agent: Any) -> None:
    lag, last = 25, 600  # across tiles of 256 steps
    for first in range(1, last + lag, 10):
        steps = range(first, first + 10)
        now, late = [step for step in steps if step <= last], [step - lag for step in steps if 0 < step - lag <= last]
        groups = [agent.logged(late, mean=[float(step) for step in late])] if late else []
        await agent.send(now, logged=[*groups, *([agent.logged(now, own=now)] if now else [])])
    for name in ("mean", "own"):
        found = (await series(agent, name, points=1000))[name]
        assert found["step"] == found["mean"] == list(range(1, last + 1)), name
        coarse = (await series(agent, name, points=5))[name]
        assert (sum(coarse["count"]), coarse["min"][0], coarse["max"][-1]) == (last, 1, last)
    assert {(each["name"], each["value"], each["step"]) for each in (await agent.get())["scalars"]} == {
        ("own", last, last),
        ("mean", last, last),
    }
    answer = await agent.client.get(f"{agent.run}/export", params={"table": "scalars"})
    rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [(row["step"], row["value"], row["count"]) for row in rows if row["name"] == "mean"] == [
        (step, step, 1) for step in range(1, last + 1)
    ]


async def test_a_batch_of_mixed_groups_is_one_record_a_step_and_a_later_value_wins(agent: Any) -> None:
    await agent.send([1, 2], logged=[agent.logged([1, 2], a=[1, 2]), agent.logged([2], b=5), agent.logged([2], a=9)])
    found = await series(agent, "a", "b")
    assert (found["a"]["step"], found["a"]["mean"]) == ([1, 2], [1, 9])
    assert (found["b"]["step"], found["b"]["count"]) == ([2], [1])
    await agent.send([3], logged=[agent.logged([3], c=math.inf, a=3)])  # a new name widens what is stored
    found = await series(agent, "a", "c", "nonfinite/c")
    assert found["a"]["mean"] == [1, 9, 3]
    assert found["c"]["step"] == []
    assert found["nonfinite/c"]["mean"] == [1]
    (_, _, last) = (await agent.get())["scalars"]
    assert (last["name"], last["value"], last["nonfinite"]) == ("c", None, 1)


async def test_hostile_names_are_data_everywhere(agent: Any) -> None:
    described = {HOSTILE: ScalarDescription("<i>", 'a "sentence" & more')}
    await agent.send([1], logged=[agent.logged([1], **{HOSTILE: 4.0})], described=described)
    assert (await series(agent, HOSTILE))[HOSTILE]["mean"] == [4.0]
    (view,) = (await agent.get())["scalars"]
    assert (view["name"], view["unit"], view["sentence"]) == (HOSTILE, "<i>", 'a "sentence" & more')
    text = (await agent.client.get("http://test/metrics")).text
    escaped = HOSTILE.replace("\\", r"\\").replace('"', r"\"")
    assert f'steadynorm_scalar{{name="{escaped}",run="tiny",run_id="tiny-1"}} 4.0' in text


async def test_names_beyond_the_bound_are_left_out_and_told_once(agent: Any) -> None:
    names = [f"n{at}" for at in range(MAX_SCALARS)]
    await agent.send([1], logged=[agent.logged([1], **dict.fromkeys(names, 1.0))])
    for step in (2, 3):
        await agent.send([step], logged=[agent.logged([step], more=1.0, n0=float(step))])
    detail = await agent.get()
    assert len(detail["scalars"]) == MAX_SCALARS
    assert detail["scalars_omitted"] == 2
    assert (await series(agent, "n0"))["n0"]["mean"] == [1, 2, 3]
    assert [event["message"] for event in await agent.events() if event["kind"] == "finding"] == [
        "more than 256 names were logged in this run: values of further ones are not stored."
    ]
    text = (await agent.client.get("http://test/metrics")).text
    assert text.count("steadynorm_scalar{") == 16
    assert 'steadynorm_scalars_omitted{run="tiny",run_id="tiny-1"} 240.0' in text


def _record(names: tuple[str, ...] = ("a",), steps: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    steps = [1] if steps is None else steps
    good = {"names": names, "steps": steps, "times": bytes(8 * len(steps)), "data": bytes(4 * len(steps) * len(names))}
    return {**good, **changes}


MALFORMED: list[tuple[Any, int, str]] = [
    ([_record(("raw_norm",))], 422, "must not have a built-in name: got 'raw_norm'"),
    ([_record(("",))], 422, "1 to 100 printable characters"),
    ([_record(("a\x00",))], 422, "1 to 100 printable characters"),
    ([_record(("nonfinite/a",))], 422, "must not begin like"),
    ([_record(("a", "a"))], 422, "at least one, and different"),
    ([_record((), data=b"")], 422, "at least one, and different"),
    ([_record(steps=[-1])], 422, "whole numbers from 0"),
    ([_record(times=b"\xff" * 8)], 422, "finite Unix seconds"),
    ([_record(times=b"")], 400, "expected 8 bytes for the stated steps and names, got 0"),
    ([_record(data=bytes(8))], 400, "expected 4 bytes for the stated steps and names, got 8"),
    ([_record(tuple(f"n{at}" for at in range(300)))], 400, "length <= 256"),
    ([_record((f"n{at}",)) for at in range(MAX_SCALAR_GROUPS + 1)], 422, "at most 256 groups"),
    ([_record(steps=list(range(5000)))], 422, "at most 4096 records"),
    ([_record(tuple(f"n{at + more}" for at in range(200))) for more in (0, 200)], 422, "at most 256 different"),
    ("text", 400, "Expected `array`"),
]


async def test_malformed_ones_are_refused_with_a_reason_and_nothing_is_stored(agent: Any) -> None:
    empty = msgspec.msgpack.decode(encode_batch(TelemetryBatch(incarnation=1, sequence=1)))
    for logged, status, says in MALFORMED:
        body = msgspec.msgpack.encode({**empty, "logged": logged})
        answer = await agent.client.post(f"{agent.run}/telemetry", content=body)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["detail"]
    assert (await agent.get())["scalars"] == []


async def test_a_group_without_records_and_an_older_agent_change_nothing(agent: Any) -> None:
    await agent.send([1], logged=[ScalarRecords(("a",), [], b"", b"")])
    await agent.send([2])
    assert (await agent.get())["step"] == 2


async def test_a_rule_on_a_logged_scalar_acts_and_one_on_an_unknown_name_waits_and_says_so(agent: Any) -> None:
    def rule(scalar: str, comparison: str = ">", **more: Any) -> dict[str, Any]:
        when = {"scalar": scalar, "comparison": comparison, **more}
        return {"rules": [{"id": "own", "when": when, "settings": {"paused": True}}]}

    async def put(body: dict[str, Any]) -> Any:
        return await agent.client.put(f"{agent.run}/rules", content=msgspec.json.encode(body))

    async def told() -> tuple[str, bool]:
        (view,) = (await agent.get("/rules"))["rules"]
        return view["warning"], view["has_value"]

    saved = await put(rule("eval/lss", value=3.0))
    assert saved.status_code == 200
    assert saved.json()["rules"][0]["warning"] == "no scalar 'eval/lss' in this run yet; it logs none of its own."
    await agent.send([1], described={"eval/loss": ScalarDescription()})
    assert await told() == ("no scalar 'eval/lss' in this run; did you mean 'eval/loss'?", False)
    assert (await put(rule("eval/loss", value=3.0, for_steps=2))).status_code == 200
    assert await told() == ("", False)
    await agent.send([2], logged=[agent.logged([2], **{"eval/loss": 4.0})])
    assert await told() == ("", True)
    await agent.send(range(3, 50), logged=[agent.logged([3, 4], **{"eval/loss": [math.inf, 2.0]})])
    await agent.send([50], logged=[agent.logged([50], **{"eval/loss": 4.0})])
    assert (await agent.get("/settings"))["settings"]["paused"] is False
    await agent.send([51], logged=[agent.logged([51], **{"eval/loss": 3.5})])
    assert (await agent.get("/settings"))["settings"]["paused"] is True
    assert (await put(rule("eval/loss", "is nan"))).status_code == 200
    assert (await agent.get("/rules"))["rules"][0]["condition"] == "eval/loss is nan"


async def test_the_export_has_a_row_for_each_value(agent: Any) -> None:
    await agent.send(
        [1, 2, 3],
        logged=[agent.logged([1, 2, 3], **{HOSTILE: [1, math.inf, 3]}), agent.logged([3], **{"eval/loss": 0.5})],
    )
    answer = await agent.client.get(f"{agent.run}/export", params={"table": "scalars"})
    assert answer.status_code == 200, answer.text
    rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [(row["step"], row["name"], row["value"], row["count"], row["nonfinite"]) for row in rows] == [
        (1, HOSTILE, 1.0, 1, 0),
        (2, HOSTILE, None, 1, 1),
        (3, HOSTILE, 3.0, 1, 0),
        (3, "eval/loss", 0.5, 1, 0),
    ]
