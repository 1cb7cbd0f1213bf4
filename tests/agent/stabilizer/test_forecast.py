"""What a preview says will follow from now on, against what a real stabilizer then does."""

from __future__ import annotations

import math
import random
from statistics import fmean

import msgspec
import pytest
import torch

from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.forecast import (
    Outlook,
    Present,
    consequences,
    forecast,
    memory,
)
from steadynorm_contract.rule import RECOVERED_TARGET, TensorState, advance
from steadynorm_contract.runs import Health, RevisionState
from steadynorm_contract.series import ParameterView
from steadynorm_contract.settings import Settings, merge

TENSORS = 40  # alike, so that the mean of their targets has little noise
SPREAD = 0.2  # of the norms' logarithm
SPIKE = 300.0


def view_of(name: str, values: dict[str, float]) -> ParameterView:
    """What the server knows of a tensor with these statistics."""
    return ParameterView(
        name=name,
        shape=[4],
        dtype="float32",
        numel=4,
        raw_norm=values["raw_norm"],
        norm_mean=values["norm_mean"],
        norm_rms=values["norm_rms"],
        scale=values["scale"],
    )


class Training:
    """A stabilizer in a loop whose norms are drawn around 1; step 150 spikes."""

    def __init__(self, **settings: object) -> None:
        self.settings = Settings(**settings)  # type: ignore[arg-type]  # the caller's
        self.parameters = {f"p{at}": torch.zeros(4, requires_grad=True) for at in range(TENSORS)}
        self.stabilizer = GradientStabilizer(self.parameters.items(), **settings)  # type: ignore[arg-type]  # as above
        self.draw, self.step = random.Random(5), 0
        self.norms: dict[str, list[float | None]] = {name: [] for name in self.parameters}
        self.entries: list[AuditEntry] = []

    def take(self, steps: int, last: int = 0) -> dict[str, float]:
        """Steps; the means of all tensors' statistics in the last ones."""
        seen: list[dict[str, float]] = []
        for left in range(steps, 0, -1):
            self.step += 1
            for name, parameter in self.parameters.items():
                norm = math.exp(self.draw.gauss(0, SPREAD)) * (SPIKE if self.step == 150 else 1.0)
                parameter.grad = torch.full((4,), norm / 2)
                self.norms[name].append(norm)
            self.stabilizer.apply()
            if left <= last:
                seen += self.stabilizer.statistics().values()
        return {name: fmean(each[name] for each in seen) for name in ("target", "stabilized_norm")} if seen else {}

    def change(self, **changes: object) -> Settings:
        """As an operator's change is applied; the settings before it."""
        was = self.settings
        self.settings = merge(was, changes)
        if "reset_generation" in changes:
            self.stabilizer.reset()
        if live := {name: value for name, value in changes.items() if name not in ("reset_generation", "lr_scale")}:
            self.stabilizer.configure(**live)
        before = {name: getattr(was, name) for name in changes}
        entry = AuditEntry(
            revision=len(self.entries) + 1, time=0.0, actor="", reason="", before=before, after=changes,
            state=RevisionState.APPLIED, applied_step=self.step + 1,
        )  # fmt: skip
        self.entries.insert(0, entry)
        return was

    def present(self) -> list[Present]:
        """What the server knows of each tensor now."""
        decays = memory(self.entries, self.settings, self.step)
        found = []
        for name, values in self.stabilizer.statistics().items():
            tensor = Present.of(view_of(name, values), self.norms[name], self.settings, decays)
            assert tensor is not None
            found.append(tensor)
        return found


def mean(outlooks: list[Outlook], steps: int) -> float:
    return fmean(each.targets[steps] for each in outlooks)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reset_generation": 1},
        {"gamma2": 0.99},
        {"gamma2": 0.9999},
        {"gamma1": 0.9},
        {"spike_limit": 3.0},
        {"spike_limit": 1.5, "reset_generation": 1},
        {"spike_limit": 3.0, "spike_fade": True, "reset_generation": 1},
        {"lr_scale": 0.5},
        {"mode": "observe"},
        {"mode": "observe", "reset_generation": 1},
    ],
    ids=str,
)
def test_what_is_said_to_follow_a_change_is_what_follows(changes: dict[str, object]) -> None:
    training = Training()
    before = training.take(180, last=1)
    tensors, was = training.present(), training.settings
    outlooks = [forecast(each, was, merge(was, changes)) for each in tensors]
    training.change(**changes)
    happened = {32: training.take(36, last=8), 200: training.take(168, last=8)}  # around these steps
    for steps, then in happened.items():
        assert mean(outlooks, steps) == pytest.approx(then["target"], rel=0.05), steps
        seen = then["stabilized_norm"] * training.settings.lr_scale / before["stabilized_norm"]
        assert fmean(each.sizes[steps] for each in outlooks) == pytest.approx(seen, rel=0.15), steps


def test_the_steps_that_throttling_is_said_to_last_are_those_that_it_lasts() -> None:
    training = Training(gamma2=0.99)
    training.take(180)
    tensors = training.present()
    said = fmean(forecast(each, training.settings, training.settings).throttled_for or 0 for each in tensors)
    assert fmean(each.shortfall for each in tensors) == pytest.approx(26, rel=0.1)  # 300 / 10 steps later
    lasted = 0
    while training.take(5, last=5)["target"] < RECOVERED_TARGET:
        lasted += 5
    assert said == pytest.approx(lasted, rel=0.05)
    assert lasted > 300


def test_a_change_of_gamma2_a_while_ago_is_part_of_what_follows() -> None:
    training = Training(gamma2=0.9)
    training.take(100)
    training.change(gamma2=0.999)
    training.take(80)
    assert memory(training.entries, training.settings, training.step).square_weight == pytest.approx(
        1 - 0.9**100 * 0.999**80
    )
    outlooks = [forecast(each, training.settings, training.settings) for each in training.present()]
    assert mean(outlooks, 200) == pytest.approx(training.take(204, last=8)["target"], rel=0.05)
    training.change(reset_generation=1)
    training.take(30)
    assert memory(training.entries, training.settings, training.step).square_weight == pytest.approx(1 - 0.999**30)


def test_reset_ends_throttling_at_once_and_a_spike_limit_does_not() -> None:
    training = Training()
    training.take(180)
    tensor, was = training.present()[0], training.settings
    left, limited, reset = (
        forecast(tensor, was, merge(was, changes))
        for changes in ({}, {"spike_limit": 3.0}, {"reset_generation": 1, "spike_limit": 3.0})
    )
    assert left.throttled_for is not None
    assert left.throttled_for > 1000
    assert limited.throttled_for == left.throttled_for
    assert reset.throttled_for == 0
    (held,) = consequences(was, merge(was, {"spike_limit": 3.0}), [limited], Health.THROTTLED)
    assert "does not end the throttling" in held
    assert consequences(was, merge(was, {"reset_generation": 1, "spike_limit": 3.0}), [reset], Health.THROTTLED) == []
    (fades,) = consequences(was, merge(was, {"preset": "robust", "reset_generation": 1}), [reset], Health.THROTTLED)
    assert "a step of 12 times the usual norm counts a sixteenth" in fades
    assert "does nothing without" in consequences(was, merge(was, {"spike_fade": True}), [left], Health.THROTTLED)[0]
    assert "0.5 times as large" in consequences(was, merge(was, {"lr_scale": 0.5}), [left], Health.THROTTLED)[0]
    carried = consequences(was, merge(was, {"mode": "observe"}), [left], Health.THROTTLED)
    assert "reset the statistics first" in carried[-1]


def test_small_targets_without_a_spike_are_told_apart_and_what_is_said_of_them_holds() -> None:
    def target_after(changes: dict[str, object]) -> float:
        state, settings = TensorState(), Settings()
        for step in range(600):
            if step == 540:
                settings = merge(settings, changes)
            outcome = advance(state, 10.0 if step < 500 else 1.0, settings, settings.mode)
        return outcome.target

    assert target_after({}) == pytest.approx(target_after({"spike_limit": 3.0}))
    assert target_after({}) < 0.3 < target_after({"gamma2": 0.99}) * 2
    tensor = Present("a", TensorState(norm_sum=0.1, norm_weight=1.0, square_sum=1.0, square_weight=1.0), [0.1])
    was = Settings()
    limited = merge(was, {"spike_limit": 3.0})
    small = forecast(tensor, was, limited)
    (said,) = consequences(was, limited, [small], Health.CALM)
    assert "norms fall faster than gamma2 forgets" in said
    assert "a spike_limit does not raise them" in said
    assert "norms fall" not in " ".join(consequences(was, limited, [small], Health.THROTTLED))


def test_the_row_of_a_step_that_faded_still_tells_the_output_scale() -> None:
    training = Training(spike_limit=3.0, spike_fade=True)
    training.take(150)  # the spike is the newest step
    ratios = training.stabilizer.rows[:, RING_COLUMNS.index("spike_ratio")].tolist()
    decays = memory([], training.settings, training.step)
    for (name, values), ratio in zip(training.stabilizer.statistics().items(), ratios, strict=True):
        assert values["stabilized_norm"] < 1e-3
        view = msgspec.structs.replace(view_of(name, values), spike_ratio=ratio)
        tensor = Present.of(view, training.norms[name], training.settings, decays)
        assert tensor is not None
        assert tensor.state.unit == pytest.approx(1, rel=1e-3)


def test_nothing_is_foretold_from_nothing() -> None:
    view = ParameterView(name="a", shape=[1], dtype="float32", numel=1, norm_mean=1.0, norm_rms=1.0)
    decays = memory([], Settings(), 10)
    assert Present.of(view, [None, 0.0], Settings(), decays) is None
    fresh = ParameterView(name="a", shape=[1], dtype="float32", numel=1)
    assert Present.of(fresh, [1.0], Settings(), decays) is None
