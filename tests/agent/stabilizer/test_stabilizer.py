"""What the stabilizer promises by itself: exact statistics, bounded spikes, no jolt, no host synchronization."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from steadynorm.stabilizer.reference import ReferenceStabilizer
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.stabilizer.statistics import STATE_FIELDS
from steadynorm.stabilizer.summary import summarize
from steadynorm_contract.rule import spike_ceiling
from steadynorm_contract.settings import SettingsError
from steadynorm_contract.telemetry import SCALAR_COLUMNS


def one_parameter(size: int = 8) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(size))


def set_norm(parameter: torch.nn.Parameter, norm: float) -> None:
    parameter.grad = torch.full_like(parameter, norm / math.sqrt(parameter.numel()))


@given(
    norm=st.floats(1e-6, 1e6),
    gammas=st.lists(st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999), st.integers(1, 40)), min_size=1, max_size=8),
)
def test_a_constant_norm_keeps_its_target_at_one_under_any_gamma_changes(
    norm: float, gammas: list[tuple[float, float, int]]
) -> None:
    parameter = one_parameter()
    stabilizer = GradientStabilizer([("p", parameter)])
    for gamma1, gamma2, count in gammas:
        stabilizer.configure(gamma1=gamma1, gamma2=gamma2)
        for _ in range(count):
            set_norm(parameter, norm)
            stabilizer.apply()
            # eps is 1e-12 here, a millionth of the smallest norm.
            assert stabilizer.statistics()["p"]["target"] == pytest.approx(1.0, abs=1e-4)


def test_a_spike_of_any_size_is_bounded_by_the_spike_ceiling() -> None:
    ratios = {"1e3": 1e3, "1e6": 1e6, "1e9": 1e9}
    parameters = {name: one_parameter() for name in ratios}
    stabilizer = GradientStabilizer(parameters.items(), gamma1=0.6, gamma2=0.999)
    for _ in range(6_000):  # until the weight of gamma2 is within 0.3 % of 1
        for parameter in parameters.values():
            set_norm(parameter, 1.0)
        stabilizer.apply()
    for name, ratio in ratios.items():
        set_norm(parameters[name], ratio)
    stabilizer.apply()
    for statistics in stabilizer.statistics().values():
        assert statistics["target"] <= spike_ceiling(0.6, 0.999) * 1.001
        assert statistics["target"] == pytest.approx(spike_ceiling(0.6, 0.999), rel=0.02)
        assert statistics["stabilized_norm"] == pytest.approx(statistics["target"], rel=1e-5)


def test_a_spike_throttles_the_papers_rule_and_a_spike_limit_prevents_it() -> None:
    def target_later(spike_limit: float | None) -> float:
        parameter = one_parameter()
        stabilizer = GradientStabilizer([("p", parameter)], spike_limit=spike_limit)
        for step in range(400):
            set_norm(parameter, 1000.0 if step == 300 else 1.0)
            stabilizer.apply()
        return stabilizer.statistics()["p"]["target"]

    assert target_later(None) < 0.3
    assert target_later(3.0) == pytest.approx(1.0, abs=0.05)


def test_a_nonfinite_gradient_becomes_zero_and_leaves_the_statistics_alone() -> None:
    bad, good = one_parameter(), one_parameter()
    stabilizer = GradientStabilizer([("bad", bad), ("good", good)])
    set_norm(bad, 2.0)
    set_norm(good, 2.0)
    stabilizer.apply()
    before = stabilizer.statistics()["bad"]
    for poison in (math.nan, math.inf, -math.inf):
        set_norm(bad, 2.0)
        set_norm(good, 2.0)
        assert bad.grad is not None
        bad.grad[3] = poison
        stabilizer.apply()
        assert bad.grad.tolist() == [0.0] * 8
        assert good.grad is not None
        assert float(good.grad.norm()) == pytest.approx(1.0, rel=1e-5)
    after = stabilizer.statistics()["bad"]
    assert after["nonfinite"] == 3
    assert (after["norm_mean"], after["norm_rms"]) == (before["norm_mean"], before["norm_rms"])


def test_observing_from_the_start_leaves_nonfinite_and_all_other_gradients_bit_for_bit() -> None:
    parameter = one_parameter()
    stabilizer = GradientStabilizer([("p", parameter)], mode="observe")
    values = torch.tensor([math.nan, math.inf, -0.0, 1e-42, 1.0, 3.3, -7.0, 0.0])
    parameter.grad = values.clone()
    stabilizer.apply()
    assert torch.equal(parameter.grad.view(torch.int32), values.view(torch.int32))


def test_norms_at_the_edges_of_float32_do_not_poison_the_statistics() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    stabilizer = GradientStabilizer([("p", parameter)])
    for value in (1.7e19, 1.0, 1e-18, 1.0):
        parameter.grad = torch.tensor([value])
        stabilizer.apply()
        statistics = stabilizer.statistics()["p"]
        assert all(math.isfinite(number) for number in statistics.values())
    assert statistics["updates"] == 4

    parameter.grad = torch.tensor([1e30])  # its square is infinite in float32
    stabilizer.apply()
    assert parameter.grad.tolist() == [0.0]
    assert stabilizer.statistics()["p"]["nonfinite"] == 1


@pytest.mark.parametrize("start", ["observe", "stabilize"])
def test_switching_the_mode_carries_the_output_scale_over(start: str) -> None:
    parameter = one_parameter()
    stabilizer = GradientStabilizer([("p", parameter)], mode=start)
    rng = random.Random(1)
    outputs: list[float] = []
    for step in range(300):
        if step % 30 == 29:
            stabilizer.configure(mode="observe" if stabilizer.settings.mode == "stabilize" else "stabilize")
        set_norm(parameter, 0.01 * rng.uniform(0.9, 1.1))
        stabilizer.apply()
        assert parameter.grad is not None
        outputs.append(float(parameter.grad.norm()))
    # A plain switch would change the scale by a factor of 100 here.
    assert max(outputs) / min(outputs) < 1.5


def test_a_plain_transfer_is_the_papers_bare_rule() -> None:
    parameter = one_parameter()
    stabilizer = GradientStabilizer([("p", parameter)], mode="observe", transfer="plain")
    for step in range(40):
        stabilizer.configure(mode="stabilize" if step % 2 else "observe")
        set_norm(parameter, 0.01)
        stabilizer.apply()
        assert parameter.grad is not None
        assert float(parameter.grad.norm()) == pytest.approx(1.0 if step % 2 else 0.01, rel=1e-4)


def test_a_reset_forgets_the_statistics_and_keeps_the_scale() -> None:
    parameter = one_parameter()
    stabilizer = GradientStabilizer([("p", parameter)], mode="observe")
    set_norm(parameter, 4.0)
    stabilizer.apply()
    stabilizer.configure(mode="stabilize")
    set_norm(parameter, 4.0)
    stabilizer.apply()
    unit = stabilizer.state_dict()["parameters"]["p"][4]
    stabilizer.reset()
    assert stabilizer.statistics()["p"]["norm_rms"] == 0.0
    set_norm(parameter, 4.0)
    stabilizer.apply()
    assert stabilizer.state_dict()["parameters"]["p"][4] == unit
    assert parameter.grad is not None
    assert float(parameter.grad.norm()) == pytest.approx(4.0, rel=1e-5)


def test_a_checkpoint_from_before_baselines_loads_and_one_that_fits_no_version_is_refused() -> None:
    parameter = one_parameter()
    stabilizer = GradientStabilizer([("p", parameter)])
    for norm in (4.0, 2.0, 400.0):
        set_norm(parameter, norm)
        stabilizer.apply()
    state = stabilizer.state_dict()
    new = state["parameters"]["p"]
    assert len(new) == len(STATE_FIELDS)
    state["parameters"] = {"p": new[:8]}
    other = GradientStabilizer([("p", one_parameter())])
    other.load_state_dict(state)
    assert other.statistics()["p"]["norm_rms"] == pytest.approx(stabilizer.statistics()["p"]["norm_rms"], rel=1e-6)
    saved = dict(zip(STATE_FIELDS, other.state_dict()["parameters"]["p"].tolist(), strict=True))
    assert (saved["baseline_weight"], saved["calm_square_sum"]) == (0.0, saved["square_sum"])
    state["parameters"] = {"p": new[:7]}
    with pytest.raises(ValueError, match="must have 11 numbers a parameter"):
        other.load_state_dict(state)


def test_a_restored_stabilizer_continues_as_if_never_stopped() -> None:
    def norms() -> list[float]:
        rng = random.Random(3)
        return [rng.uniform(0.5, 2.0) for _ in range(80)]

    def run(split: int | None) -> list[float]:
        parameter = one_parameter()
        stabilizer = GradientStabilizer([("p", parameter)], mode="observe")
        for step, norm in enumerate(norms()):
            if step == 20:
                stabilizer.configure(mode="stabilize", gamma2=0.99)
            if step == 30:
                stabilizer.configure(mode="observe")
            if step == split:
                state = stabilizer.state_dict()
                stabilizer = GradientStabilizer([("p", parameter)])
                stabilizer.load_state_dict(state)
            set_norm(parameter, norm)
            stabilizer.apply()
        assert parameter.grad is not None
        return [*parameter.grad.tolist(), *stabilizer.statistics()["p"].values()]

    assert run(25) == run(None)
    assert run(50) == run(None)


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    stabilizer = GradientStabilizer([("p", one_parameter())])
    other = GradientStabilizer([("q", one_parameter())]).state_dict()
    before = stabilizer.state_dict()
    with pytest.raises(ValueError, match=r"missing \['p'\], unknown \['q'\]"):
        stabilizer.load_state_dict(other)
    with pytest.raises(ValueError, match="version 1"):
        stabilizer.load_state_dict({"version": 9})
    assert torch.equal(stabilizer.state_dict()["parameters"]["p"], before["parameters"]["p"])


def test_a_bad_setting_is_refused_and_changes_nothing() -> None:
    stabilizer = GradientStabilizer([("p", one_parameter())])
    with pytest.raises(SettingsError, match=r"gamma2 must be in \[0, 1\): got 1.0"):
        stabilizer.configure(gamma1=0.5, gamma2=1.0)
    assert stabilizer.settings.gamma1 == 0.6


def test_parameters_that_cannot_be_taken_are_refused_with_advice() -> None:
    with pytest.raises(ValueError, match="at least one parameter"):
        GradientStabilizer([])
    with pytest.raises(ValueError, match="names must be unique: got p"):
        GradientStabilizer([("p", one_parameter()), ("p", one_parameter())])


class CountOps(TorchDispatchMode):
    """Counts every operator that reaches the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["off", "observe", "stabilize"])
def test_a_step_never_asks_the_device_for_a_value(mode: str) -> None:
    parameters = [one_parameter() for _ in range(5)]
    stabilizer = GradientStabilizer([(f"p{i}", p) for i, p in enumerate(parameters)], mode=mode)
    with CountOps() as ops:
        for step in range(6):
            for parameter in parameters:
                set_norm(parameter, 1.0)
            if step == 2:
                parameters[1].grad = None
            if step == 3:
                stabilizer.configure(gamma2=0.9, spike_limit=3.0, spike_fade=True)
            if step == 4:
                stabilizer.configure(mode="observe")
            stabilizer.apply()
            stabilizer.apply_again()
            stabilizer.apply(torch.tensor(1024.0), torch.tensor(float(step % 2)))
    assert sum(ops.calls.values()) > 50
    assert not [name for name in ops.calls if "_local_scalar_dense" in name or "nonzero" in name]


def test_a_step_takes_as_many_calls_for_300_tensors_as_for_3() -> None:
    def calls(count: int) -> int:
        parameters = [one_parameter() for _ in range(count)]
        stabilizer = GradientStabilizer([(f"p{i}", p) for i, p in enumerate(parameters)])
        for parameter in parameters:
            set_norm(parameter, 1.0)
        stabilizer.apply()
        with CountOps() as ops:
            stabilizer.apply()
        return sum(ops.calls.values())

    assert calls(300) == calls(3) > 0


def test_a_step_takes_few_calls_where_everything_is_on() -> None:
    parameters = [one_parameter() for _ in range(100)]
    named = [(f"p{i}", p) for i, p in enumerate(parameters)]
    stabilizer = GradientStabilizer(named, spike_limit=3.0, spike_fade=True)
    for _ in range(2):
        for parameter in parameters:
            set_norm(parameter, 1.0)
        with CountOps() as ops:
            stabilizer.apply()
    assert sum(ops.calls.values()) <= 32, ops.calls


def test_the_summary_names_the_worst_parameters() -> None:
    parameters = [one_parameter() for _ in range(4)]
    stabilizer = GradientStabilizer([(f"p{i}", p) for i, p in enumerate(parameters)], mode="observe")
    for _ in range(10):
        for parameter in parameters:
            set_norm(parameter, 3.0)
        stabilizer.apply()
    set_norm(parameters[2], 120.0)
    set_norm(parameters[1], math.nan)
    stabilizer.apply()
    record = dict(zip(SCALAR_COLUMNS, summarize(stabilizer.rows.unsqueeze(0))[0].tolist(), strict=True))
    assert (record["spikes"], record["spike_parameter"]) == (1.0, 2.0)
    assert record["spike_ratio_max"] == pytest.approx(40.0, rel=1e-4)
    assert (record["nonfinite"], record["nonfinite_parameter"]) == (1.0, 1.0)
    assert math.isnan(record["raw_norm"])
    assert math.isnan(record["loss"])
    assert record["target_min"] == pytest.approx(1.0, abs=1e-4)
    assert record["target_parameter"] != 2.0


def test_the_summary_counts_the_parameters_whose_step_faded_where_it_did() -> None:
    def faded() -> float:
        set_norm(parameters[0], 40.0)
        set_norm(parameters[1], 3.0)
        set_norm(parameters[2], math.inf)
        stabilizer.apply()
        return float(summarize(stabilizer.rows.unsqueeze(0))[0, SCALAR_COLUMNS.index("faded")])

    parameters = [one_parameter() for _ in range(3)]
    stabilizer = GradientStabilizer([(f"p{i}", p) for i, p in enumerate(parameters)], spike_limit=3.0, spike_fade=True)
    for _ in range(10):
        for parameter in parameters:
            set_norm(parameter, 3.0)
        stabilizer.apply()
    counted = {"stabilize": faded()}
    for changes in ({"mode": "observe"}, {"mode": "clip"}, {"mode": "stabilize", "spike_fade": False}):
        stabilizer.configure(**changes)
        counted[str(changes)] = faded()
    assert list(counted.values()) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("make", [GradientStabilizer, ReferenceStabilizer])
def test_a_mode_chosen_before_the_first_step_is_no_switch(make: Any) -> None:
    parameter = one_parameter()
    stabilizer = make([("p", parameter)])
    stabilizer.configure(mode="observe")
    set_norm(parameter, 5.0)
    assert parameter.grad is not None
    before = parameter.grad.clone()
    stabilizer.apply()
    assert torch.equal(parameter.grad, before)


@pytest.mark.parametrize("wrong", [lambda model: model.parameters(), lambda model: model, lambda _: [("weight", None)]])
def test_what_are_not_named_parameters_is_refused_with_what_to_pass(wrong: Callable[[torch.nn.Module], Any]) -> None:
    model = torch.nn.Linear(3, 2)  # its weight, two rows, unpacks like a pair
    with pytest.raises(TypeError, match=r"as model\.named_parameters\(\) returns them: got "):
        GradientStabilizer(wrong(model))
