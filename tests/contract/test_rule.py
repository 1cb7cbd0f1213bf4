"""The rule in plain floats keeps what the page docs/algorithm.md promises."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadynorm_contract.rule import (
    SPIKE_RATIO,
    TensorState,
    advance,
    fade,
    is_throttled,
    reset,
    spike_ceiling,
    spike_memory,
    target,
)
from steadynorm_contract.settings import Mode, Settings, Transfer

decays = st.floats(0, 0.9999)


@given(
    st.lists(st.tuples(decays, decays, st.sampled_from([None, 1.5, 3.0])), min_size=1, max_size=200),
    st.floats(1e-6, 1e6),
    st.booleans(),
)
def test_a_constant_norm_keeps_the_target_at_one_under_any_change_of_gamma_and_limit(
    changes: list[tuple[float, float, float | None]], norm: float, fades: bool
) -> None:
    state = TensorState()
    for gamma1, gamma2, limit in changes:
        settings = Settings(gamma1=gamma1, gamma2=gamma2, spike_limit=limit, spike_fade=fades)
        outcome = advance(state, norm, settings, Mode.STABILIZE)
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


LIMITED, FADING = Settings(spike_limit=3.0), Settings(spike_limit=3.0, spike_fade=True)


def faded(norms: Iterable[float], settings: Settings = FADING) -> list[float]:
    """Of each step, the stabilized norm as a share of that without fading."""
    states = TensorState(), TensorState()
    shares = []
    for norm in norms:
        limited, fading = (
            advance(state, norm, each, Mode.STABILIZE) for state, each in zip(states, (LIMITED, settings), strict=True)
        )
        assert limited.target == fading.target  # of the statistics, which fading leaves alone
        shares.append(fading.stabilized_norm / limited.stabilized_norm)
    assert states[0] == states[1]
    return shares


@given(st.floats(1e-3, 1e9), st.floats(1e-6, 1e6))
def test_a_step_fades_with_the_square_of_how_far_it_is_above_the_limit(ratio: float, norm: float) -> None:
    *calm, step = faded([norm] * 30 + [ratio * norm])
    assert calm == [1.0] * 30
    assert step == pytest.approx(min(1.0, 3.0 / ratio) ** 2, rel=1e-6)


def test_bursts_fade_and_a_lasting_rise_counts_in_full_after_some_steps() -> None:
    assert max(faded([1.0] * 100 + [100.0] * 10)[100:]) < 0.05
    for rise, within in ((4.0, 2), (10.0, 8), (100.0, 20), (1e4, 45)):
        shares = faded([1.0] * 100 + [rise] * 100)[100:]
        assert shares[0] == pytest.approx((3 / rise) ** 2, rel=1e-6)
        assert shares == sorted(shares)  # gradually
        assert shares[within:] == [1.0] * (100 - within)


def test_nothing_fades_without_a_limit_or_among_the_first_norms() -> None:
    state = TensorState()
    for norm in [1.0] * 20 + [1e3, 1.0]:
        bare = advance(state, norm, Settings(spike_fade=True), Mode.STABILIZE)
        assert bare.stabilized_norm == pytest.approx(bare.target)
    assert faded([1.0, 20.0, 1.0, 400.0, 0.1]) == [1.0] * 5
    assert fade(5.0, 0.0, math.inf, 3.0) == 1.0
    # After a reset there is no RMS norm: the baseline alone says what is usual.
    reset(state)
    assert advance(state, 30.0, FADING, Mode.STABILIZE).scale == pytest.approx(0.01 / 30, rel=0.5)


def spikes(norms: Iterable[float], state: TensorState | None = None) -> list[int]:
    """Which of the norms are spikes, counted from 0."""
    state = state or TensorState()
    outcomes = [advance(state, norm, Settings(), Mode.STABILIZE) for norm in norms]
    return [at for at, outcome in enumerate(outcomes) if outcome.spike_ratio > SPIKE_RATIO]


def with_spikes(planted: dict[int, float], steps: int = 500) -> list[float]:
    draw = random.Random(0)
    return [math.exp(draw.gauss(0, 0.3)) * planted.get(step, 1.0) for step in range(steps)]


def test_a_spike_blinds_nobody_to_the_next_ones() -> None:
    for planted in ({200: 1e4, 300: 300.0, 350: 1000.0}, {100: 1e8, 101: 1e8, 103: 40.0}, {6: 1e4, 20: 100.0}):
        assert spikes(with_spikes(planted)) == list(planted)
    burst = dict.fromkeys(range(200, 210), 100.0)
    assert spikes(with_spikes(burst)) == list(burst)


def test_a_lasting_rise_is_no_spike_any_more_after_some_tens_of_steps_and_a_fall_is_followed() -> None:
    for rise, within in ((30.0, 10), (1e4, 45)):
        found = spikes([1.0] * 100 + [rise] * 100)
        assert found == list(range(100, 100 + len(found)))
        assert len(found) <= within
    assert spikes([1.0] * 100 + [0.1] * 40 + [1.5] + [0.1] * 10) == [140]


def test_the_first_norms_are_no_spikes_and_what_is_not_finite_is_not_compared_with() -> None:
    assert spikes([1.0, 1e3, 1.0, 1.0, 1e3]) == []
    assert spikes([1e-9] + [1.0] * 20 + [20.0]) == [21]
    state = TensorState()
    spikes([1.0] * 20, state)
    before = (state.baseline_sum, state.baseline_weight, state.calm_square_sum)
    assert spikes([math.nan, math.inf, 0.0], state) == []
    assert (state.baseline_sum, state.baseline_weight, state.calm_square_sum) == before
    reset(state)
    assert spikes([20.0], state) == [0]


def test_throttled_is_what_a_spike_does_and_falling_norms_do_not() -> None:
    def throttled(norms: Iterable[float]) -> list[int]:
        state = TensorState()
        outcomes = [advance(state, norm, Settings(), Mode.STABILIZE) for norm in norms]
        return [at for at, one in enumerate(outcomes) if is_throttled(one.target, one.calm_share)]

    assert throttled(100 * math.exp(-step / 10) + 1 for step in range(300)) == []
    assert throttled([10.0] * 500 + [0.1] * 300) == []
    found = throttled(with_spikes({500: 1000.0}, 600))
    assert 500 < found[0] < 512
    assert found == list(range(found[0], 600))
    # Falling norms, and in them a spike that holds the target at a thousandth for longer than they would.
    assert throttled((20 * math.exp(-step / 50) + 0.1) * (1e4 if step == 60 else 1.0) for step in range(90))


def test_how_long_a_spike_is_remembered() -> None:
    state, last = TensorState(square_sum=1.0, square_weight=1.0, norm_sum=1.0, norm_weight=1.0), 0
    for step in range(6000):
        if advance(state, 1000.0 if step == 0 else 1.0, Settings(), Mode.STABILIZE).target < 0.3:
            last = step
    assert spike_memory(1000.0, 0.999, 100_000) == pytest.approx(last, rel=0.02)
    assert spike_memory(1000.0, 0.999, 10) > 8000
    assert spike_memory(20.0, 0.999, 100_000) == spike_memory(1e9, 0.0, 5) == 0


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
