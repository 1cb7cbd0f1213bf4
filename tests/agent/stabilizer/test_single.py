"""One tensor in host memory: plain floats decide what torch's operations decide, on the same memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from steadynorm import GradientStabilizer
from steadynorm.stabilizer.summary import clean_rows

NORMS = [3.0, 1.0, 0.0, 200.0, float("nan"), 2.0, float("inf"), 1e-12, 5.0, None, 1e18, 4.0]


def pair() -> tuple[GradientStabilizer, GradientStabilizer]:
    """The same tensor alone, and by torch's operations, beside one that never has a gradient."""
    alone, beside, idle = (torch.nn.Parameter(torch.ones(3, 4)) for _ in range(3))
    return GradientStabilizer([("p", alone)]), GradientStabilizer([("p", beside), ("idle", idle)])


def step(stabilizer: GradientStabilizer, norm: float | None, direction: torch.Tensor) -> torch.Tensor | None:
    parameter = stabilizer.parameters[0]
    parameter.grad = None if norm is None else direction * norm
    stabilizer.apply()
    return parameter.grad


def equal(one: GradientStabilizer, other: GradientStabilizer) -> None:
    assert one.statistics()["p"] == pytest.approx(other.statistics()["p"], rel=1e-5, nan_ok=True)
    rows = one.state_dict()["parameters"]["p"], other.state_dict()["parameters"]["p"]
    torch.testing.assert_close(*rows, rtol=1e-5, atol=0)
    assert torch.equal(one._statistics.finite, other._statistics.finite[:1])


CHANGES: dict[str, dict[int, dict[str, Any]]] = {
    "stabilize": {},
    "observe": {0: {"mode": "observe"}},
    "modes": {0: {"mode": "observe"}, 2: {"mode": "stabilize"}, 5: {"mode": "observe"}, 7: {"mode": "stabilize"}},
    "off": {3: {"mode": "off"}, 6: {"mode": "stabilize"}},
    "plain": {0: {"transfer": "plain"}, 4: {"mode": "observe"}, 8: {"mode": "stabilize"}},
    "spike_limit": {0: {"spike_limit": 2.0, "gamma2": 0.9}, 6: {"gamma1": 0.0}},
    "spike_fade": {0: {"spike_limit": 1.1, "spike_fade": True}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_decides_as_torchs_operations_do(name: str) -> None:
    one, other = pair()
    direction = torch.nn.functional.normalize(torch.arange(1.0, 13.0), dim=0).view(3, 4)
    for number, norm in enumerate(NORMS):
        for each in (one, other):
            each.configure(**CHANGES[name].get(number, {}))
        found, expected = step(one, norm, direction), step(other, norm, direction)
        if expected is None:
            assert found is None
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=0, equal_nan=True)
        rows = clean_rows(one.rows), clean_rows(other.rows)[:1]
        torch.testing.assert_close(*rows, rtol=1e-5, atol=0, equal_nan=True)
        equal(one, other)


def test_other_gradients_take_turns_with_it() -> None:
    one, other = pair()
    direction = torch.nn.functional.normalize(torch.arange(1.0, 13.0), dim=0).view(3, 4)
    for gradient in (direction * 3, direction.to_sparse(), direction.t().contiguous().t() * 2, direction * 4):
        for each in (one, other):
            each.parameters[0].grad = gradient.clone()
            each.apply()
        equal(one, other)
    scale = torch.tensor([8.0])
    for each in (one, other):
        each.parameters[0].grad = direction * 8
        each.apply(scale, torch.zeros(1))
        each.parameters[0].grad = direction * 2
        each.apply_again()
    equal(one, other)


def test_a_copy_has_statistics_of_its_own() -> None:
    one, _ = pair()
    direction = torch.full((3, 4), 1.0)
    step(one, 1.0, direction)
    other = copy.deepcopy(one)
    step(other, 5.0, direction)
    assert one.statistics()["p"]["updates"] == 1
    assert other.statistics()["p"]["updates"] == 2
    one.reset()
    step(one, 2.0, direction)
    assert one.statistics()["p"]["norm_mean"] == pytest.approx(2 * 12**0.5)
    assert other.statistics()["p"]["updates"] == 2


SETTINGS: list[dict[str, Any]] = [
    {"mode": "observe"},
    {"spike_limit": 2.0, "spike_fade": True, "gamma2": 0.99},
    {"spike_limit": 3.0, "transfer": "plain"},
    {"gamma1": 0.0, "eps": 1e-3},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_step_in_few_calls_is_the_rules_own_to_the_last_bit(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = (GradientStabilizer([("p", torch.nn.Parameter(torch.ones(3, 4)))], **settings) for _ in range(2))
    assert slow._single is not None
    monkeypatch.setattr(slow._single, "step_on", lambda *_: False)
    own = quick._single.step_on  # type: ignore[union-attr]  # there is one
    taken: list[bool] = []

    def step_on(*given: Any) -> bool:
        taken.append(own(*given))
        return taken[-1]

    monkeypatch.setattr(quick._single, "step_on", step_on)
    generator = torch.Generator().manual_seed(0)
    for number in range(60):
        size = [1.0, 1e-18, 1e3, 0.0, 1e18, float("nan")][number // 7 % 6 if number < 50 else 0]
        gradient = size * torch.randn(3, 4, generator=generator)
        for each in (quick, slow):
            each.parameters[0].grad = gradient.clone()
            if number == 55:
                each.configure(gamma2=0.9, mode="stabilize")
            each.apply()
        grads = [each.parameters[0].grad for each in (quick, slow)]
        for one, other in (grads, [quick.rows, slow.rows], [quick._statistics.floats, slow._statistics.floats]):
            assert torch.equal(one.view(torch.int32), other.view(torch.int32)), number  # type: ignore[union-attr]
    assert taken.count(True) >= 35
    assert taken.count(False) >= 5, "zeros and what is not finite"
