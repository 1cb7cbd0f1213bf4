"""Mode `clip`: torch's clip_grad_norm_ and ZClip, on the device, live, and with telemetry from before the clip."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import nn

import steadynorm
from steadynorm import GradientStabilizer
from steadynorm.stabilizer.statistics import DeviceSettings
from steadynorm.stabilizer.total_clip import TotalClip
from steadynorm_contract.clipping import WARM_UP, RecentNorms, clip_factor
from steadynorm_contract.settings import Mode, Settings

SHAPES = ((3, 4), (7,), (200, 100))


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]


def fill(given: list[nn.Parameter], seed: int, size: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in given:
        parameter.grad = (torch.randn(parameter.shape, generator=generator) * size).to(parameter.dtype)


def clipping(given: list[nn.Parameter], **options: Any) -> GradientStabilizer:
    return GradientStabilizer(((str(at), each) for at, each in enumerate(given)), mode="clip", **options)


def assert_equal(ours: list[nn.Parameter], theirs: list[nn.Parameter], rtol: float = 1e-6) -> None:
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=rtol, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_number_clips_as_torch_does_and_the_norms_are_those_before(dtype: torch.dtype) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    stabilizer = clipping(ours, clip_norm=1.0)
    for seed, size in enumerate((1e-4, 1.0, 1e6, 3e-3)):
        fill(ours, seed, size)
        fill(theirs, seed, size)
        stabilizer.apply()
        total = float(nn.utils.clip_grad_norm_(theirs, 1.0))
        assert_equal(ours, theirs, 1e-6 if dtype is torch.float32 else 0.01)  # torch's norm of bfloat16 is rounded
        found = stabilizer.statistics().values()
        assert math.hypot(*(each["raw_norm"] for each in found)) == pytest.approx(total, rel=1e-2)
        assert math.hypot(*(each["stabilized_norm"] for each in found)) == pytest.approx(min(total, 1.0), rel=1e-2)


def test_auto_limits_as_zclip_does() -> None:
    ours = parameters()
    stabilizer, recent, draw, clipped = clipping(ours, clip_norm="auto"), RecentNorms(), random.Random(0), 0
    for step in range(80):
        fill(ours, step, math.exp(draw.gauss(0, 0.1)) * (50.0 if step in (5, 60, 70) else 1.0))
        if step == 65:  # a checkpoint in between
            state = stabilizer.state_dict()
            stabilizer = clipping(ours)
            stabilizer.load_state_dict(state)
        total = math.hypot(*(float(each.grad.double().norm()) for each in ours))  # type: ignore[union-attr]  # just set
        limit = recent.limit(total)
        factor = clip_factor(total, limit)
        recent.add(min(total, limit))
        stabilizer.apply()
        for each in stabilizer.statistics().values():
            assert each["scale"] == pytest.approx(factor, rel=1e-5)
        clipped += factor < 1
        assert factor == 1 or step > WARM_UP
        assert (factor < 0.5) is (step in (60, 70))
    assert clipped >= 2


def test_a_total_that_is_not_finite_makes_all_gradients_zero_and_is_not_remembered() -> None:
    ours = parameters()
    stabilizer = clipping(ours, clip_norm="auto")
    for step in range(30):
        fill(ours, step)
        if step == 10:
            ours[1].grad[0] = math.nan  # type: ignore[index]  # just set
        stabilizer.apply()
        assert all(bool((each.grad == 0).all()) is (step == 10) for each in ours)  # type: ignore[union-attr]
    found = stabilizer.statistics()
    assert [each["nonfinite"] for each in found.values()] == [0, 1, 0]
    assert all(each["norm_rms"] < 1e3 for each in found.values())


def test_a_calm_step_is_left_alone_bit_for_bit_and_switching_does_not_jolt() -> None:
    ours = parameters()
    stabilizer = clipping(ours, clip_norm=1e9)
    fill(ours, 0, 0.01)
    before = [each.grad.clone() for each in ours]  # type: ignore[union-attr]
    stabilizer.apply()
    assert all(torch.equal(each.grad, old) for each, old in zip(ours, before, strict=True))  # type: ignore[arg-type]
    draw = random.Random(1)
    for step in range(60):
        stabilizer.configure(mode=("clip", "stabilize", "observe")[step // 5 % 3])
        fill(ours, step, 0.01 * math.exp(draw.gauss(0, 0.2)))
        stabilizer.apply()
        for each in stabilizer.statistics().values():
            assert 0.4 < each["stabilized_norm"] / each["raw_norm"] < 2.5


def test_a_clip_that_always_acts_hands_its_scale_over_and_takes_it_back() -> None:
    ours = parameters()
    stabilizer, sizes = clipping(ours, clip_norm=0.3), []
    for step in range(90):
        stabilizer.configure(mode="stabilize" if 30 <= step < 60 else "clip")
        fill(ours, 1)  # a total norm of 143
        stabilizer.apply()
        sizes.append(math.hypot(*(each["stabilized_norm"] for each in stabilizer.statistics().values())))
        if step == 45:  # a checkpoint in between
            state = stabilizer.state_dict()
            stabilizer = clipping(ours)
            stabilizer.load_state_dict(state)
    assert sizes == pytest.approx([0.3] * 90, rel=1e-4)


def test_loss_scaling_is_taken_out_of_the_total_and_kept_in_the_gradients() -> None:
    ours, theirs = parameters(torch.float16), parameters()
    stabilizer = clipping(ours, clip_norm=1.0)
    fill(theirs, 0)
    for our, their in zip(ours, theirs, strict=True):
        our.grad = (their.grad * 512).half()  # type: ignore[operator,union-attr]
    stabilizer.apply(torch.tensor(512.0), torch.tensor(0.0))
    nn.utils.clip_grad_norm_(theirs, 1.0)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad.float() / 512, their.grad, rtol=2e-3, atol=1e-6)  # type: ignore[union-attr]
    stabilizer.apply(torch.tensor(512.0), torch.tensor(1.0))  # the optimizer skips this step
    assert all(each["updates"] == 1 for each in stabilizer.statistics().values())


def test_several_optimizers_share_one_total_also_when_settings_and_parameters_change() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)]) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizers = [[torch.optim.SGD(each.parameters(), lr=1.0) for each in model] for model in (ours, theirs)]
    agent = steadynorm.attach(ours, optimizers[0], server="", mode="clip", clip_norm=0.5)
    for step in range(4):
        if step == 2:
            for model, pair in zip((ours, theirs), optimizers, strict=True):
                model.register_parameter("extra", nn.Parameter(torch.ones(3)))
                pair[0].add_param_group({"params": [model.extra]})
        for model, pair in zip((ours, theirs), optimizers, strict=True):
            inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
            for each in pair:
                each.zero_grad()
            loss = model[1](torch.tanh(model[0](inputs))).pow(2).sum()
            (loss + sum(each.pow(2).sum() for each in model.parameters(recurse=False))).backward()
            if model is theirs:
                assert float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)) > 0.5
            for each in pair:
                each.step()
        for our, their in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-7)
    assert len({id(each.clip) for each in agent.stabilizers}) == 1
    agent.close()


def test_nothing_of_the_decision_is_read_on_the_host() -> None:
    class OnMeta:  # whose numbers nobody can read
        device = torch.device("meta")

        def total_norm(self, grad_scale: torch.Tensor | None) -> torch.Tensor:
            return torch.empty((), device="meta")

    members, live = [OnMeta(), OnMeta()], DeviceSettings(torch.device("meta"))
    clip = TotalClip(members)
    for limit in (1.0, "auto", "auto", 0.5):
        live.fill(Settings(mode=Mode.CLIP, clip_norm=limit))
        for member in members:
            clip.begin(member, None)
            assert clip.factor(member, torch.empty(3, device="meta"), live).device.type == "meta"
            live.usual_clip.fill_(clip.usual(member.device))
    with pytest.raises(RuntimeError, match="meta"):
        clip.save()


def test_an_error_in_measuring_another_one_still_measures_the_rest() -> None:
    class Broken:
        device = torch.device("cpu")
        asked = 0

        def total_norm(self, grad_scale: torch.Tensor | None) -> torch.Tensor:
            Broken.asked += 1
            raise RuntimeError("broken")

    members = [Broken(), Broken(), Broken()]
    with pytest.raises(RuntimeError, match="broken"):
        TotalClip(members).begin(members[0], None)
    assert Broken.asked == 2
