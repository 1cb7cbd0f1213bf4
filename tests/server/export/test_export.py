"""A run's Parquet file holds what was recorded: every step once, every extreme, as /series tells it."""

from __future__ import annotations

import io
import itertools
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS, Parameter
from steadynorm_server.export import parquet
from steadynorm_server.export.snapshot import serves_from
from steadynorm_server.timeseries.rollups import ROWS, SCALARS

ODD = ["a,b", 'c"d', "plain.weight"]


@pytest.fixture
def little_room() -> Iterator[None]:
    """Levels that hold so little that short runs lose resolution."""
    levels = [*SCALARS.levels[:-1], *ROWS.levels[:-1]]
    budgets = [level.budget for level in levels]
    for level in levels:
        object.__setattr__(level, "budget", 16_000)
    yield
    for level, budget in zip(levels, budgets, strict=True):
        object.__setattr__(level, "budget", budget)


async def export(agent: Any, **query: Any) -> Any:
    """The file, read back by pyarrow."""
    answer = await agent.client.get(f"{agent.run}/export", params=query)
    assert answer.status_code == 200, answer.text
    return pq.read_table(io.BytesIO(answer.content))


def bucketed(table: Any, name: str, width: int) -> dict[int, tuple[int, float | None, float | None, float | None]]:
    """Per bucket of `width` steps: steps recorded, minimum, mean and maximum of `name`."""
    found = {}
    columns = [table[each].to_pylist() for each in ("step", "count", f"{name}_min", name, f"{name}_max")]
    rows = sorted(zip(*columns, strict=True), key=lambda row: row[0])
    for bucket, members in itertools.groupby(rows, key=lambda row: row[0] // width):
        inside = list(members)
        good = [row for row in inside if row[3] is not None]
        total = sum(row[1] for row in good)
        found[bucket] = (
            sum(row[1] for row in inside),
            min((row[2] for row in good), default=None),
            sum(row[1] * row[3] for row in good) / total if good else None,
            max((row[4] for row in good), default=None),
        )
    return found


async def same_as_series(agent: Any, table: Any, name: str, series: str) -> None:
    """What the file says of `name` is what /series says of `series`, in buckets that no level is wider than."""
    last, widest = max(table["step"].to_pylist()), max(table["resolution"].to_pylist())
    points = max(1, last // widest // 2 + 1)
    told = (await agent.get("/series", name=series, points=points))["series"][series]
    width = widest
    while last // width - min(table["step"].to_pylist()) // width + 1 > points:
        width *= 2
    found = bucketed(table, name, width)
    assert [step // width for step in told["step"]] == list(found)
    for at, (count, low, mean, high) in enumerate(found.values()):
        assert (told["count"][at], told["min"][at], told["max"][at]) == (count, low, high)
        assert told["mean"][at] == pytest.approx(mean, rel=1e-5)


async def test_each_step_is_in_the_file_once_however_old_it_is(agent: Any, little_room: None) -> None:
    draw, sent = random.Random(3), []
    step = 1
    for size in (1000, 700, 1000, 1000, 13, 1000, 999, 1000):
        steps = list(range(step, step + size))
        values = [draw.lognormvariate(0, 3) for _ in steps]
        await agent.send(steps, raw_norm=values)
        sent += list(zip(steps, values, strict=True))
        step += draw.choice([size, size, size + 5000, size - 600])  # a gap, or back to a checkpoint
    table = await export(agent)
    assert sum(table["count"].to_pylist()) == len(sent)
    assert len(set(table["resolution"].to_pylist())) >= 3  # or the levels had room for all
    assert max(table["raw_norm_max"].to_pylist()) == np.float32(max(value for _, value in sent))
    singles = table.filter(np.equal(table["resolution"].to_numpy(), 1))
    known = {(at, np.float32(value)) for at, value in sent}
    assert {(row["step"], np.float32(row["raw_norm"])) for row in singles.to_pylist()} <= known
    await same_as_series(agent, table, "raw_norm", "raw_norm")


async def test_rows_of_parameters_are_those_of_series(api: Any, make_agent: Any, little_room: None) -> None:
    agent = make_agent(api, parameters=[Parameter(name, (2,), "float32") for name in ODD])
    await agent.register()
    draw = random.Random(4)
    for first in range(10, 900_000, 50_000):
        steps = list(range(first, first + 50_000, 1000))
        await agent.send(
            steps, rows=agent.rows(steps, [[[draw.random() + at] * 5 for at in range(3)] for _ in steps], 3)
        )
    table = await export(agent, table="parameters")
    assert set(table["parameter"].to_pylist()) == set(ODD)
    assert set(table["resolution"].to_pylist()) == {1, 4096, 65_536}  # what buckets of 256 hold is there singly
    for name in ODD:
        mine = table.filter(np.equal(table["parameter"].to_numpy(zero_copy_only=False), name))
        assert sum(mine["count"].to_pylist()) == 900
        for column in (*ROW_COLUMNS, "target"):
            await same_as_series(agent, mine, column, f"{column}/{name}")


async def test_a_fresh_run_is_exported_step_by_step(agent: Any) -> None:
    norms = [1.0, math.nan, math.inf, 4.0]
    spiked = [-1, 0, 1, 7]  # there is no parameter 7
    await agent.send([5, 6, 7, 8], raw_norm=norms, spike_parameter=spiked)
    rows = (await export(agent)).to_pylist()
    assert [row["step"] for row in rows] == [5, 6, 7, 8]
    assert [row["raw_norm"] for row in rows] == [row["raw_norm_min"] for row in rows] == [1.0, None, None, 4.0]
    assert [row["spike_parameter"] for row in rows] == [None, "embed.weight", "head.weight", None]
    assert [row["time"].timestamp() for row in rows] == [1_700_000_000.0 + step for step in (5, 6, 7, 8)]
    assert {row["loss_max"] for row in rows} == {2.0}


async def test_before_its_first_step_a_run_has_an_empty_file(agent: Any) -> None:
    for table in ("steps", "parameters"):
        found = await export(agent, table=table)
        assert found.num_rows == 0
        assert {"step", "count", "time", "resolution"} <= set(found.column_names)


async def test_the_file_says_of_which_run_it_is_and_in_which_units(agent: Any) -> None:
    await agent.send([1], applied=[agent.applied(1, 1, gamma2=0.5)])
    schema = (await export(agent)).schema
    about = json.loads(schema.metadata[b"steadynorm"])
    assert (about["run_id"], about["name"], about["steps"]) == ("tiny-1", "tiny", 1)
    assert about["applied"]["settings"]["gamma2"] == 0.5
    assert json.loads(schema.metadata[b"PANDAS_ATTRS"])["steadynorm"] == about
    for name in ("step", *SCALAR_COLUMNS):
        assert {b"unit", b"description"} == set(schema.field(name).metadata)
    assert schema.field("raw_norm_max").metadata[b"description"].startswith(b"largest in the bucket")


async def test_large_tables_come_in_row_groups(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_VALUES", 3 * len(SCALAR_COLUMNS) * 100)
    steps = list(range(1, 1001))
    await agent.send(steps, raw_norm=[float(step) for step in steps])
    answer = await agent.client.get(f"{agent.run}/export")
    file = pq.ParquetFile(io.BytesIO(answer.content))
    assert max(file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)) == 100
    assert file.num_row_groups < 20
    assert file.read()["raw_norm"].to_pylist() == steps


async def test_who_has_the_file_gets_it_once(agent: Any) -> None:
    await agent.send([1])
    path = f"{agent.run}/export?table=steps"
    first = await agent.client.get(path)
    assert first.headers["content-type"] == "application/vnd.apache.parquet"
    assert first.headers["content-disposition"] == 'attachment; filename="tiny-1-steps.parquet"'
    assert int(first.headers["content-length"]) == len(first.content)
    known = {"If-None-Match": first.headers["etag"]}
    again = await agent.client.get(path, headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (await agent.client.get(f"{agent.run}/export?table=parameters", headers=known)).status_code == 200
    await agent.send([2])
    assert (await agent.client.get(path, headers=known)).status_code == 200


async def test_what_a_run_drops_while_it_is_copied_is_copied_again(
    agent: Any, little_room: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(1, 2000, 100):
        await agent.send(range(first, first + 100))
    redis = agent.client.app.state.repository.redis
    real, calls = redis.entries_between, []

    async def slow(stream: str, after: int, last: int, limit: int) -> Any:
        calls.append(stream)
        if len(calls) == 2:  # between two pages of the raw level the run goes on
            for first in range(2001, 4000, 100):
                await agent.send(range(first, first + 100))
        return await real(stream, after, last, min(limit, 2))

    monkeypatch.setattr(redis, "entries_between", slow)
    assert sum((await export(agent))["count"].to_pylist()) == 4000
    assert calls.count(calls[0]) == 4  # two pages each time


async def test_a_run_that_is_always_faster_is_a_503_and_not_half_a_file(
    agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agent.send([1])

    async def gone(*_: object) -> list[object]:
        return []

    monkeypatch.setattr(agent.client.app.state.repository.redis, "entries_between", gone)
    answer = await agent.client.get(f"{agent.run}/export")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize(("path", "status"), [("/runs/nobody/export", 404), ("/runs/tiny-1/export?table=x", 422)])
async def test_what_cannot_be_exported_is_a_problem(agent: Any, path: str, status: int) -> None:
    answer = await agent.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


@given(st.lists(st.integers(-1, 100_000), min_size=4, max_size=4))
def test_levels_take_over_from_each_other_where_buckets_begin(trimmed: list[int]) -> None:
    begins = serves_from(SCALARS, trimmed)
    assert begins == sorted(begins, reverse=True)
    assert begins[-1] == 0
    for at, begin in enumerate(begins[:-1]):
        assert begin % SCALARS.levels[at + 1].width == 0
        told = begins[at - 1] if at else math.inf
        assert begin > trimmed[at] or begin >= told  # it tells nothing that it may have dropped
