"""The preview: the same settings give what happened, others give what the rule says, rows may be far apart."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from steadynorm_contract.clipping import clip_factor
from steadynorm_contract.rule import TensorState, advance
from steadynorm_contract.settings import Mode, Settings
from steadynorm_dashboard.charts.replay import Recorded, replay, throttled_share
from steadynorm_dashboard.panels.preview import preview_figure

NOW = Settings(gamma2=0.99)


def recorded(settings: Settings, steps: int = 400, every: int = 1, spike: int = 200) -> Recorded:
    """What the rule did to made-up norms with one spike; a row every `every` steps and around the spike."""
    draw, state = random.Random(3), TensorState()
    rows = Recorded([], [], [], [], [])
    for step in range(steps):
        norm = math.exp(draw.gauss(0, 0.2)) * (500.0 if step == spike else 1.0)
        outcome = advance(state, norm, settings, settings.mode)
        if step % every == 0 or abs(step - spike) < 32:
            values = (step, norm, state.norm_mean, state.norm_rms, outcome.scale)
            for kept, value in zip((rows.steps, rows.norms, rows.means, rows.rms, rows.scales), values, strict=True):
                kept.append(value)  # type: ignore[attr-defined]  # lists
    return rows


def late(values: object, by: int = 300) -> list[float]:
    return list(values)[by:]  # type: ignore[call-overload,no-any-return]  # sequences of floats


def test_the_settings_that_were_in_force_give_what_happened() -> None:
    rows = recorded(NOW)
    settled = Recorded(*(late(getattr(rows, name), 150) for name in ("steps", "norms", "means", "rms", "scales")))  # type: ignore[arg-type]
    done = replay(settled, NOW, NOW)
    assert done is not None
    assert done.steps == list(settled.steps)[1:]
    assert late(done.stabilized, 50) == pytest.approx(late(settled.stabilized, 51), rel=0.15)


def test_a_spike_limit_lets_go_of_a_run_that_an_old_spike_throttles() -> None:
    rows = recorded(NOW)
    happened, limited = replay(rows, NOW, NOW), replay(rows, NOW, Settings(gamma2=0.99, spike_limit=3.0))
    assert happened is not None
    assert limited is not None
    assert throttled_share(happened.targets) > 0.3
    assert throttled_share(limited.targets) < 0.05


@pytest.mark.parametrize(("clip_norm", "spiked"), [(0.5, 0.5), ("auto", None)])
def test_a_clip_goes_by_the_total_norm_of_the_step_and_to_and_from_it_the_scale_is_carried_over(
    clip_norm: float | str, spiked: float | None
) -> None:
    observed = recorded(Settings(gamma2=0.99, mode=Mode.OBSERVE))
    rows = replace(observed, totals=[2 * (norm or 0.0) for norm in observed.norms])  # two tensors' worth and more
    was, clipping = Settings(gamma2=0.99, mode=Mode.OBSERVE), Settings(gamma2=0.99, mode=Mode.CLIP, clip_norm=clip_norm)
    done = replay(rows, was, clipping)
    assert done is not None
    calm = done.stabilized[150]
    if spiked is None:  # ZClip's limit leaves calm steps alone
        assert calm == rows.norms[151]
        assert (done.stabilized[199] or 0.0) < 0.02 * (rows.norms[200] or 0.0)
    else:
        assert (calm, done.stabilized[199]) == pytest.approx((spiked / 2, spiked / 2), rel=1e-4)
        clipped = replace(rows, scales=[clip_factor(total or 0.0, 0.5) for total in rows.totals])
        again = replay(clipped, clipping, clipping)
        assert again is not None
        assert again.stabilized == pytest.approx(done.stabilized), "the factor is not taken for a gain"
        entered = replay(clipped, clipping, Settings(gamma2=0.99))
        assert entered is not None
        assert entered.stabilized[0] == pytest.approx(spiked / 2, rel=0.5)


def test_fading_replays_a_spike_as_nothing_and_a_faded_row_does_not_tell_the_scale() -> None:
    limited, fading = Settings(gamma2=0.99, spike_limit=3.0), Settings(gamma2=0.99, spike_limit=3.0, spike_fade=True)
    rows = recorded(limited)
    done = replay(rows, limited, fading)
    assert done is not None
    assert (done.stabilized[199] or 0.0) < 1e-3 * (rows.stabilized[200] or 0.0)
    faded = recorded(fading)
    after = Recorded(*(late(getattr(faded, name), 200) for name in ("steps", "norms", "means", "rms", "scales")))  # type: ignore[arg-type]
    again = replay(after, fading, fading)
    assert again is not None
    assert again.steps[0] == 202  # not from the faded row on
    assert late(again.stabilized, 50) == pytest.approx(late(after.stabilized, 52), rel=0.15)


def test_rows_far_apart_decay_as_long_as_the_steps_between_them() -> None:
    every, tenth = recorded(NOW), recorded(NOW, every=10)
    fine, coarse = replay(every, NOW, NOW), replay(tenth, NOW, NOW)
    assert fine is not None
    assert coarse is not None
    assert coarse.targets[-1] == pytest.approx(fine.targets[fine.steps.index(coarse.steps[-1])], rel=0.35)


def test_observing_carries_the_scale_over_and_lets_the_spike_through() -> None:
    rows = recorded(NOW)
    done = replay(rows, NOW, Settings(gamma2=0.99, mode=Mode.OBSERVE))
    assert done is not None
    calm = [value for value in done.stabilized[50:150] if value]
    assert max(value for value in done.stabilized if value) > 100 * max(calm)


def test_a_norm_that_was_not_finite_stays_a_gap_and_too_few_rows_give_nothing() -> None:
    rows = recorded(NOW, steps=20, spike=-1)
    rows.norms[7] = None  # type: ignore[index]  # a list
    done = replay(rows, NOW, NOW)
    assert done is not None
    assert done.stabilized[6] is None
    assert replay(recorded(NOW, steps=2), NOW, NOW) is None


def test_the_preview_draws_a_panel_a_parameter_with_its_name_as_it_is_written() -> None:
    rows = recorded(NOW, steps=50)
    done = replay(rows, NOW, NOW)
    assert done is not None
    figure = json.loads(preview_figure([("<b>a</b>", rows, done), ("b", rows, done)]).to_json())
    assert len(figure["data"]) == 6
    assert figure["layout"]["yaxis2"]["type"] == "log"
    assert "&lt;b&gt;a" in figure["layout"]["annotations"][0]["text"]
