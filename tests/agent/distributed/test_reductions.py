"""`agent.describe(name, reduce="mean")`: one value of all ranks in each step, or rank 0's and a word about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.fake_cuda import FakeCuda

from steadynorm.distributed.reductions import MAX_REDUCED, Reduction, ScalarReductions, reduction
from steadynorm.recording.logged import Logged
from steadynorm.recording.scalars import LoggedRecord
from steadynorm_contract.telemetry import floats_from_bytes

if TYPE_CHECKING:
    from tests.support.agent import StubServer
    from tests.support.ranks import StartedRanks

Points = dict[int, float]
StartRanks = Callable[..., "StartedRanks"]


def logged(stub: StubServer, run: str, name: str, history: int | None = None) -> Points:
    """Value by step of what that run sent under `name`; each step once.

    history: only of that one, 1 being the one after a checkpoint was loaded, in which 1000 more is logged.
    """
    (stored,) = [each for each in stub.runs.values() if each.registrations[0].name == run]
    found = []
    for batch in stored.batches:
        for group in batch.logged:
            if name in group.names:
                column = floats_from_bytes(group.data)[group.names.index(name) :: len(group.names)]
                found += [(step, value) for step, value in zip(group.steps, column, strict=True) if value == value]
    if history is not None:
        found = [(step, value) for step, value in found if (value > 1000) == history]
    assert len({step for step, _ in found}) == len(found)
    return dict(found)


def train(start_ranks: StartRanks, stub: StubServer, world: int, runs: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Findings of each run; they are rank 0's to tell."""
    arguments = {"server": stub.url, "runs": runs}
    results: list[Any] = start_ranks(world, "several reduced", program="reduction_scenarios", **arguments).results()
    told = ("reductions_full", "reductions_differ", "not_reduced", "partly_reduced")
    found = [
        [{name: text for name, text in each["findings"].items() if name.startswith(told)} for each in result]
        for result in results
    ]
    assert not any(finding for others in found[1:] for finding in others)
    return found[0]


@pytest.mark.parametrize("world", [2, 4])
def test_values_of_all_ranks_are_one_in_each_step_up_to_the_last(
    start_ranks: StartRanks, stub: StubServer, world: int
) -> None:
    runs: list[dict[str, Any]] = [
        {"run": "each step"},
        {"run": "own numbers", "stride": 10, "flushed": True},
        {"run": "before the step", "before": True},
        {"run": "described late", "late": 5},
        {"run": "short", "steps": 1},
        {"run": "NaN", "nan_at": 7},
    ]
    findings = train(start_ranks, stub, world, runs)
    assert findings == [{}] * len(runs)
    mean, most = 100 * (world - 1) / 2, 100 * (world - 1)
    steps = range(1, 13)
    for run, stride in (("each step", 1), ("own numbers", 10), ("before the step", 1)):
        assert logged(stub, run, "mean") == {stride * step: step + mean for step in steps}, run
        assert logged(stub, run, "max") == {stride * step: step + most for step in steps}, run
        assert logged(stub, run, "own") == {stride * step: step for step in steps}, run
    assert logged(stub, "described late", "mean") == {step: step + (mean if step > 5 else 0) for step in steps}
    assert logged(stub, "short", "max") == {1: 1 + most}
    for name in ("mean", "max"):
        assert logged(stub, "NaN", name)[7] == math.inf  # as it travels: logged, not finite
        assert logged(stub, "NaN", name)[8] > 8


def test_what_is_not_reduced_over_all_ranks_is_said(start_ranks: StartRanks, stub: StubServer) -> None:
    runs: list[dict[str, Any]] = [
        {"run": "on rank 0 only", "described_by": [0]},
        {"run": "not on rank 0", "described_by": [1]},
        {"run": "logged by one", "only_logged_by": [1]},
        {"run": "too many", "names": MAX_REDUCED - 1},
        {"run": "one fails", "fails": True},
        {"run": "apart", "apart_at": 6},
    ]
    findings = dict(zip((each["run"] for each in runs), train(start_ranks, stub, 2, runs), strict=True))
    steps = range(1, 13)
    own, mean = {step: step for step in steps}, {step: step + 50 for step in steps}

    for run in ("on rank 0 only", "not on rank 0"):
        assert logged(stub, run, "mean") == logged(stub, run, "max") == own
        assert "rank 1 reduces other scalars than rank 0" in findings[run].pop("reductions_differ")
        assert not findings[run]

    assert logged(stub, "logged by one", "mean") == {step: step + 100 for step in steps}
    assert logged(stub, "logged by one", "max") == {step: step + 100 for step in steps}
    (text,) = findings["logged by one"].values()
    assert "'mean' was logged by 1 of 2 ranks in step 1:" in text

    assert logged(stub, "too many", "mean") == mean
    assert logged(stub, "too many", f"many/{MAX_REDUCED - 3}") == {12: 62}
    assert logged(stub, "too many", f"many/{MAX_REDUCED - 2}") == {12: 12}
    (text,) = findings["too many"].values()
    assert f"at most {MAX_REDUCED} scalars of a run are reduced over ranks: got one more" in text

    for run in ("one fails", "apart"):
        points = logged(stub, run, "mean")
        first = next(step for step in steps if points[step] == step)
        assert 1 < first < 12
        assert points == {step: step + (50 if step < first else 0) for step in steps}, run
        assert f"From step {first} on the values of rank 0 alone are recorded." in findings[run]["not_reduced"]


def test_when_a_checkpoint_is_loaded_only_values_of_steps_that_count_are_recorded_late(
    start_ranks: StartRanks, stub: StubServer
) -> None:
    runs: list[dict[str, Any]] = [
        {"run": f"{who}, {when}, back from {loaded_at}", "saved_at": 6, "loaded_at": loaded_at} | extra | order
        for loaded_at in (7, 8, 11)
        for who, extra in (("all", {}), ("one", {"only_logged_by": [1], "silent": [0]}))
        for when, order in (("after the step", {}), ("before it", {"before": True}))
    ]
    findings = train(start_ranks, stub, 2, runs)
    for run, found in zip(runs, findings, strict=True):
        more = {"mean": 100 if "silent" in run else 50, "max": 100}
        for name in ("mean", "max"):
            first, second = (logged(stub, run["run"], name, history) for history in (0, 1))
            assert second == {step: step + more[name] + 1000 for step in range(7, 13)}, run
            assert first == {step: step + more[name] for step in range(1, max(first) + 1)}, run
            assert 6 <= max(first) < run["loaded_at"], run
        assert len(found) == 2 * ("silent" in run)
        assert all("in step 1:" in text for text in found.values())


def test_a_rank_whose_device_is_behind_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, boundary, recorded = FakeCuda(monkeypatch), SimpleNamespace(round=0, step=0), list[LoggedRecord]()
    recorder: Any = SimpleNamespace(put_late=recorded.append)
    given: Any = boundary
    ours = ScalarReductions((0, 1), 20, "name", given, recorder, lambda name, message: pytest.fail(message))
    ours.describe("mean", Reduction.MEAN)
    for step in (1, 2, 3):
        boundary.round = boundary.step = step
        ours.log(Logged(None, None, None, {"mean": cuda.put(torch.tensor(float(step)))}))
    cuda.run(cuda.pending // 3 * 2)  # of the third step, nothing is there
    for expected in ([1.0, 2.0], [1.0, 2.0, 3.0]):
        ours.agree([ours.offer()])
        ours.tensors()
        ours.fill()
        ours.record()
        assert [each.values["mean"] for each in recorded] == expected
        cuda.run()
    assert [each.step for each in recorded] == [1, 2, 3]
    assert cuda.waits == []


def test_a_reduction_that_there_is_not_is_refused() -> None:
    assert reduction(None) is None
    with pytest.raises(ValueError, match=r"reduce must be one of mean, max, rank0: got 'sum'\."):
        reduction("sum")
