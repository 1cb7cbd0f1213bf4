"""Series hold what was recorded: every step counted once, every extreme kept, means weighted by finite values."""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadynorm_contract.telemetry import SCALAR_COLUMNS
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.timeseries.blocks import Block, downsample, pack, unpack
from steadynorm_server.timeseries.rollups import SCALARS, HistoryMovedError, Levels, LevelState, plan, read_block

Record = tuple[int, float]  # step, value
_numbers = itertools.count()

odd_floats = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0]),
)


def expected(records: Sequence[Record], first: int, last: int, points: int) -> dict[int, list[Record]]:
    """Records by bucket, as the documentation of /series says it."""
    inside = [record for record in records if first <= record[0] <= last]
    if not inside:
        return {}
    begin, end = max(first, min(r[0] for r in records)), min(last, max(r[0] for r in records))
    width = 1
    while end // width - begin // width + 1 > points:
        width *= 2
    buckets: dict[int, list[Record]] = defaultdict(list)
    for record in inside:
        buckets[record[0] // width].append(record)
    return dict(sorted(buckets.items()))


def check(series: dict[str, Any], records: Sequence[Record], first: int, last: int, points: int) -> None:
    """`series` is what `records` say about the steps first..last."""
    buckets = expected(records, first, last, points)
    assert len(series["step"]) <= points
    assert series["step"] == [min(step for step, _ in bucket) for bucket in buckets.values()]
    assert series["count"] == [len(bucket) for bucket in buckets.values()]
    for at, bucket in enumerate(buckets.values()):
        finite = [value for _, value in bucket if math.isfinite(value)]
        if not finite:
            assert (series["min"][at], series["mean"][at], series["max"][at]) == (None, None, None)
            continue
        assert series["min"][at] == min(finite)
        assert series["max"][at] == max(finite)
        scale = max(map(abs, finite))
        assert series["mean"][at] == pytest.approx(sum(finite) / len(finite), rel=1e-5, abs=1e-6 * scale)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Record]]:
    """Batches of a run that skips steps and goes back to checkpoints now and then."""
    step, batches = draw(st.integers(0, 1000)), []
    for _ in range(draw(st.integers(1, 6))):
        jump = draw(st.sampled_from([1, 1, 1, 40, 5000, -30]))
        step = max(0, step + jump)
        values = draw(st.lists(odd_floats, min_size=1, max_size=60))
        batches.append([(step + at, value) for at, value in enumerate(values)])
        step += len(values)
    return batches


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=histories(), ends=st.tuples(st.integers(0, 8000), st.integers(0, 8000)), points=st.integers(1, 200))
async def test_any_span_of_any_history_is_answered_exactly(
    agent: Any, batches: list[list[Record]], ends: tuple[int, int], points: int
) -> None:
    agent.registration.run_id = f"run-{next(_numbers)}"
    agent.run = f"/runs/{agent.registration.run_id}"
    await agent.register()
    for records in batches:
        await agent.send([step for step, _ in records], raw_norm=[value for _, value in records])
    records = [record for batch in batches for record in batch]
    first, last = sorted(ends)

    part = await agent.get("/series", names="raw_norm", points=points, **{"from": first, "to": last})
    check(part["series"]["raw_norm"], records, first, last, points)
    whole = await agent.get("/series", names="raw_norm", points=points)
    check(whole["series"]["raw_norm"], records, 0, 10**9, points)
    assert sum(whole["series"]["raw_norm"]["count"]) == (await agent.get())["counters"]["steps"] == len(records)


async def test_a_long_run_loses_resolution_and_nothing_else(agent: Any, repository: RunRepository) -> None:
    steps = 70_000
    draw = random.Random(0)
    records = [(step, draw.lognormvariate(0, 3)) for step in range(1, steps + 1)]
    records = [(step, array("f", [value])[0]) for step, value in records]
    records[12_345] = (12_346, 2.0**66)
    for batch in _batched(records, 1000):
        await agent.send([step for step, _ in batch], raw_norm=[value for _, value in batch])

    run = await repository.get("tiny-1")
    assert 20_000 < run.trimmed["scalars1"] < steps - 20_000  # the oldest raw blocks are gone
    for points in (10, 100, 1000, 4000):
        answer = await agent.get("/series", names="raw_norm", points=points)
        check(answer["series"]["raw_norm"], records, 0, 10**9, points)
        assert sum(answer["series"]["raw_norm"]["count"]) == steps
    # Single steps of the recent past, buckets of 16 where those are gone.
    recent = await agent.get("/series", names="raw_norm", points=1000, **{"from": 69_500})
    check(recent["series"]["raw_norm"], records, 69_500, steps, 1000)
    old = await agent.get("/series", names="raw_norm", points=1000, **{"from": 12_340, "to": 12_350})
    spike = old["series"]["raw_norm"]
    assert (spike["step"], spike["count"]) == ([12_336], [16])
    assert spike["max"] == [2.0**66]


def _batched(records: Sequence[Record], size: int) -> list[Sequence[Record]]:
    return [records[at : at + size] for at in range(0, len(records), size)]


async def test_more_than_a_level_may_hold_is_rolled_before_it_goes(agent: Any, repository: RunRepository) -> None:
    sizes = [50_000, 1, 50_000, 1]  # 50 000 records of one step are 3 MB, where the level may hold 2 MiB
    for size in sizes:
        await agent.send([5] * size, raw_norm=[float(at) for at in range(size)])
        series = (await agent.get("/series", names="raw_norm"))["series"]["raw_norm"]
        assert series["count"] == [(await agent.get())["counters"]["steps"]]
        assert series["max"][0] >= 49_999
    fields = await repository.redis.hash("steadynorm:{tiny-1}:run")
    assert int(fields[b"bytes:scalars1"]) <= 2 * 2**20


async def test_a_parameter_has_series_of_its_own_and_of_its_target(agent: Any) -> None:
    draw = random.Random(1)
    steps = list(range(10, 6000, 10))
    means = {step: (draw.uniform(0.5, 1), draw.uniform(1, 2)) for step in steps}
    for part in _batched([(step, 0.0) for step in steps], 50):
        at = [step for step, _ in part]
        await agent.send(at, rows=agent.rows(at, [[[1, 1, 1, 1, 1], [step, *means[step], 1, 1]] for step in at]))
    names = "raw_norm/head.weight,target/head.weight,raw_norm/embed.weight"
    for points in (20, 10_000):  # from rolled buckets, from single rows
        series = (await agent.get("/series", names=names, points=points))["series"]
        assert list(series) == names.split(",")
        assert sum(series["raw_norm/head.weight"]["count"]) == len(steps)
        check(series["raw_norm/head.weight"], [(step, float(step)) for step in steps], 0, 10**9, points)
        assert set(series["raw_norm/embed.weight"]["max"]) == {1.0}
        targets = [means[step][0] / means[step][1] for step in steps]
        assert min(series["target/head.weight"]["min"]) == pytest.approx(min(targets), rel=1e-6)
        assert max(series["target/head.weight"]["max"]) == pytest.approx(max(targets), rel=1e-6)


async def test_a_run_without_data_has_empty_series(agent: Any) -> None:
    series = (await agent.get("/series", names="loss,target/head.weight"))["series"]
    assert series["loss"]["step"] == series["target/head.weight"]["count"] == []


async def test_a_span_without_records_is_empty(agent: Any) -> None:
    await agent.send([5, 6])
    assert (await agent.get("/series", names="loss", **{"from": 7, "to": 9}))["series"]["loss"]["count"] == []
    assert (await agent.get("/series", names="loss", to=4))["series"]["loss"]["count"] == []


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"names": "noise"}, "'noise' does not exist. There are loss, learning_rate"),
        ({"names": "raw_norm/nothing"}, "no parameter 'nothing'. It has embed.weight, head.weight"),
        ({"names": "loss/head.weight"}, "'loss/head.weight' does not exist"),
        ({"names": ","}, "names must be 1 to 64 series: got 0."),
        ({"names": "loss", "points": 0}, "points"),
        ({"names": "loss", "from": 9, "to": 3}, "from must not be after to: got 9 and 3"),
        ({"names": "loss", "from": "nan"}, "from"),
        ({"names": "loss", "from": -1}, "from"),
        ({"names": "loss", "to": 10**30}, "to"),
    ],
)
async def test_a_wrong_question_is_told_what_is_wrong(agent: Any, query: dict[str, Any], said: str) -> None:
    answer = await agent.client.get(f"{agent.run}/series", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.json()["detail"]
    assert answer.json()["errors"]


@given(st.lists(st.lists(odd_floats, min_size=3, max_size=3), min_size=1, max_size=40), st.integers(0, 100))
def test_blocks_survive_the_store(table: list[list[float]], first: int) -> None:
    values = array("f", [value for row in table for value in row])
    steps = range(first, first + len(table))
    raw = Block.raw(3, steps, map(float, steps), values)
    for block in (raw, downsample([raw], 16), downsample([downsample([raw], 16)], 256)):
        again = unpack(pack(block))
        assert pack(again) == pack(block)
        assert list(again.steps) == list(block.steps)
        assert sum(again.counts) == len(table)


def test_a_block_that_was_cut_short_is_refused() -> None:
    data = pack(Block.raw(2, [1, 2], [0.0, 0.0], array("f", [1, 2, 3, 4])))
    with pytest.raises(ValueError, match="is truncated"):
        unpack(data[:-4])


@pytest.mark.parametrize("width", [1, 16])
def test_what_was_stored_without_a_scalar_is_read_beside_what_has_it(width: int) -> None:
    level = SCALARS.levels[width > 1]
    of_then, columns = len(SCALAR_COLUMNS) - 1, len(SCALAR_COLUMNS)
    then = Block.raw(of_then, range(16), [0.0] * 16, array("f", [2.0]) * (16 * of_then))
    now = Block.raw(columns, range(16, 32), [0.0] * 16, array("f", [3.0]) * (16 * columns))
    stored = [pack(each if width == 1 else downsample([each], width)) for each in (then, now)]
    low, mean, high, finite = downsample([read_block(level, data) for data in stored], 32).values()
    assert (low[0, 0], mean[0, 0], high[0, 0], finite[0, 0]) == (2.0, 2.5, 3.0, 32)
    assert (low[0, -1], mean[0, -1], high[0, -1], finite[0, -1]) == (3.0, 3.0, 3.0, 16)


class Kept:
    """A ladder's streams, kept as the store would, with every entry checked as it comes."""

    def __init__(self, delay: float = 0.0) -> None:
        self.stored: dict[str, dict[int, Block]] = defaultdict(dict)
        self.states: Levels = {}
        self._delay = delay

    async def read(self, level: Any, after: int) -> list[Block]:
        return [block for at, block in self.stored[level.name].items() if at > after]

    async def add(self, steps: Sequence[int]) -> int:
        """Add a batch of steps; answers how many tiles were rolled."""
        block = Block.raw(13, steps, map(float, steps), array("f", [1.0]) * (13 * len(steps)))
        appends = await plan(SCALARS, self.states, block, self.read, delay=self._delay)
        for append in appends:
            assert append.rolled < append.id == max(self.stored[append.level.name], default=0) + 1
            self.stored[append.level.name][append.id] = unpack(append.data)
        return sum(append.level.width > 1 for append in appends)

    def whole(self) -> int:
        """Steps: what a level has beyond its `rolled` is in it alone; with the rolled part above it makes the whole."""
        return sum(
            sum(block.counts)
            for level in SCALARS.levels
            for at, block in self.stored[level.name].items()
            if at > self.states.get(level.name, LevelState()).rolled
        )


async def test_no_entry_may_go_before_the_next_level_has_it() -> None:
    kept = Kept()
    for first in range(0, 200_000, 4096):
        await kept.add(range(first, first + 4096))
    assert kept.whole() == 49 * 4096
    assert len(kept.stored["scalars4096"]) == 2  # the third tile is complete, but not yet known to be


@given(
    st.floats(0, 1, exclude_max=True),
    st.lists(st.tuples(st.integers(-600, 600), st.integers(1, 700)), min_size=1, max_size=60),
)
async def test_whatever_the_delay_and_wherever_a_run_goes_on_each_step_is_kept_once(
    delay: float, moves: list[tuple[int, int]]
) -> None:
    kept, at, total = Kept(delay), 0, 0
    for jump, number in moves:
        at = max(0, at + jump)
        await kept.add(range(at, at + number))
        at, total = at + number, total + number
        assert kept.whole() == total


async def test_runs_that_keep_pace_roll_their_tiles_one_after_another() -> None:
    runs = [Kept(delay=at / 100) for at in range(100)]
    at_once = [sum([await run.add(range(first, first + 10)) for run in runs]) for first in range(0, 1024, 10)]
    assert sum(at_once) == pytest.approx(100 * 3, abs=100)
    assert max(at_once) <= 12  # of 100, where all would be rolled at once without delays


async def test_tails_of_another_history_are_noticed() -> None:
    kept = Kept()
    await kept.add(range(256))
    kept.stored.clear()
    with pytest.raises(HistoryMovedError, match="scalars1 holds 0 entries after 0, not 1"):
        await kept.add(range(256, 266))
