"""The rule in plain floats keeps what the page docs/algorithm.md promises."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadynorm_contract.rule import TensorState, advance, reset, spike_ceiling, target
from steadynorm_contract.settings import Mode, Settings, Transfer

decays = st.floats(0, 0.9999)


@given(st.lists(st.tuples(decays, decays), min_size=1, max_size=200), st.floats(1e-6, 1e6))
def test_a_constant_norm_keeps_the_target_at_one_under_any_change_of_gamma(
    gammas: list[tuple[float, float]], norm: float
) -> None:
    state = TensorState()
    for gamma1, gamma2 in gammas:
        outcome = advance(state, norm, Settings(gamma1=gamma1, gamma2=gamma2), Mode.STABILIZE)
        assert outcome.target == pytest.approx(1, abs=1e-5)
        assert outcome.stabilized_norm == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("gamma1", "gamma2"), [(0.6, 0.999), (0.7, 0.9), (0.0, 0.5)])
def test_a_spike_of_any_size_has_a_bounded_target(gamma1: float, gamma2: float) -> None:
    settings, ceiling = Settings(gamma1=gamma1, gamma2=gamma2), spike_ceiling(gamma1, gamma2)
    state = TensorState()
    for _ in range(15_000):
        advance(state, 1.0, settings, Mode.STABILIZE)
    calm = dataclasses.replace(state)
    for ratio in (1.5, 10.0, 100.0, 666.0, 1e4, 1e8):
        spike = advance(dataclasses.replace(calm), ratio, settings, Mode.STABILIZE)
        assert spike.target <= math.sqrt(ceiling**2 + gamma1**2 / gamma2) * (1 + 1e-9)
        assert spike.spike_ratio == pytest.approx(ratio, rel=1e-3)
    assert spike.target == pytest.approx(ceiling, rel=1e-6)
    assert spike_ceiling(0.6, 0.999) == pytest.approx(12.649, abs=1e-3)


def test_a_spike_throttles_and_a_spike_limit_prevents_it() -> None:
    for limit, throttled in ((None, True), (3.0, False)):
        state = TensorState()
        settings = Settings(spike_limit=limit)
        for norm in [1.0] * 1000 + [1000.0] + [1.0] * 50:
            outcome = advance(state, norm, settings, Mode.STABILIZE)
        assert (outcome.target < 0.3) is throttled


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_non_finite_gradient_is_zeroed_and_kept_out(norm: float) -> None:
    state = TensorState()
    advance(state, 2.0, Settings(), Mode.STABILIZE)
    before = (state.norm_sum, state.square_sum, state.norm_weight)
    outcome = advance(state, norm, Settings(), Mode.STABILIZE)
    assert (outcome.zeroed, outcome.stabilized_norm, state.nonfinite) == (True, 0.0, 1)
    assert (state.norm_sum, state.square_sum, state.norm_weight) == before
    assert not advance(state, norm, Settings(mode=Mode.OBSERVE), Mode.OBSERVE).zeroed


@given(st.lists(st.floats(0.5, 2), min_size=5, max_size=60), st.lists(st.booleans(), min_size=60, max_size=60))
def test_switching_does_not_jolt_what_the_optimizer_sees(norms: list[float], modes: list[bool]) -> None:
    state, previous = TensorState(), Mode.OBSERVE
    for norm, stabilize in zip(norms, modes, strict=False):
        settings = Settings(mode=Mode.STABILIZE if stabilize else Mode.OBSERVE)
        outcome = advance(state, norm, settings, previous)
        previous = settings.mode
        # Always about the gradient's own size: within the spread of the norms, both ways.
        assert 1 / 16 < outcome.stabilized_norm / norm < 16


def test_plain_transfer_is_the_papers_bare_rule() -> None:
    state = TensorState()
    settings = Settings(transfer=Transfer.PLAIN)
    for norm in (3.0, 5.0):
        outcome = advance(state, norm, settings, Mode.OBSERVE)
        assert outcome.stabilized_norm == pytest.approx(outcome.target)


def test_a_reset_forgets_the_statistics_and_keeps_the_scale() -> None:
    state = TensorState()
    advance(state, 5.0, Settings(), Mode.OBSERVE)
    unit = state.unit
    reset(state)
    assert (state.norm_mean, state.norm_rms, state.unit) == (0, 0, unit)
    assert unit == pytest.approx(5)


def test_before_the_first_sample_the_target_is_one() -> None:
    assert target(0, 0, 1e-12) == 1
    outcome = advance(TensorState(), 0.0, Settings(), Mode.STABILIZE)
    assert (outcome.target, outcome.scale, outcome.spike_ratio) == (1, 1, 0)
