"""The fast path against the executable specification, over random histories."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steadynorm.stabilizer.reference import ReferenceStabilizer
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.stabilizer.statistics import RING_COLUMNS, STATE_FIELDS
from steadynorm.stabilizer.summary import clean_rows
from steadynorm_contract.settings import Settings

SHAPES = [(3, 4), (7,), (2, 3, 2), ()]
TOLERANCE = 1e-5


@dataclass
class Step:
    """What happens before and in one step: changed settings, a reset, and each tensor's gradient."""

    changes: dict[str, object] = field(default_factory=dict)
    reset: bool = False
    seed: int = 0
    sizes: tuple[float | None, ...] = (1.0,) * len(SHAPES)  # scale of each gradient; None: absent


decays = st.one_of(st.sampled_from([0.0, 0.6, 0.7, 0.9, 0.99, 0.999]), st.floats(0.0, 0.9999))
changes = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["off", "observe", "clip", "stabilize"]),
        "gamma1": decays,
        "gamma2": decays,
        "eps": st.sampled_from([1e-12, 1e-8, 1e-3]),
        "spike_limit": st.sampled_from([None, 1.5, 3.0, 10.0]),
        "spike_fade": st.booleans(),
        "clip_norm": st.sampled_from(["auto", 0.5, 100.0]),
        "transfer": st.sampled_from(["bumpless", "plain"]),
    },
)
sizes = st.one_of(
    st.floats(0.1, 10.0),
    st.sampled_from([None, 0.0, math.nan, math.inf, -math.inf, 1e-6, 1e3, 1e6]),
)
steps = st.builds(
    Step,
    changes=st.one_of(st.just({}), changes),
    reset=st.sampled_from([False, False, False, True]),
    seed=st.integers(0, 2**16),
    sizes=st.tuples(*[sizes] * len(SHAPES)),
)


def gradient(shape: tuple[int, ...], size: float | None, seed: int) -> torch.Tensor | None:
    """A random gradient of about that size. A non-finite size is planted into one element of a normal one."""
    if size is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    if math.isfinite(size):
        return values * size
    values.view(-1)[seed % max(values.numel(), 1)] = size
    return values


def assert_close(fast: float, exact: float, what: str) -> None:
    if math.isnan(exact):
        assert math.isnan(fast), what
    else:
        assert fast == pytest.approx(exact, rel=TOLERANCE, abs=1e-30), what


def run_both(initial: Settings, history: list[Step], dtype: torch.dtype = torch.float32) -> None:
    names = [f"p{index}" for index in range(len(SHAPES))]
    ours = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    theirs = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    fast = GradientStabilizer(
        zip(names, ours, strict=True),
        mode=initial.mode,
        gamma1=initial.gamma1,
        gamma2=initial.gamma2,
        eps=initial.eps,
        spike_limit=initial.spike_limit,
        spike_fade=initial.spike_fade,
        clip_norm=initial.clip_norm,
        transfer=initial.transfer,
    )
    reference = ReferenceStabilizer(zip(names, theirs, strict=True), initial)
    for number, step in enumerate(history):
        for stabilizer in (fast, reference):
            stabilizer.configure(**step.changes)
            if step.reset:
                stabilizer.reset()
        for index, (shape, size) in enumerate(zip(SHAPES, step.sizes, strict=True)):
            made = gradient(shape, size, step.seed + index)
            ours[index].grad = None if made is None else made.to(dtype, copy=True)
            theirs[index].grad = None if made is None else made.to(dtype, copy=True)
        fast.apply()
        reference.apply()
        exact, quick, saved = reference.statistics(), fast.statistics(), fast.state_dict()["parameters"]
        for name, our, their in zip(names, ours, theirs, strict=True):
            for key in ("norm_mean", "norm_rms", "target", "scale", "updates", "nonfinite"):
                assert_close(quick[name][key], exact[name][key], f"step {number} {name} {key}")
            for key in ("baseline_sum", "baseline_weight", "calm_square_sum"):
                quick_one = float(saved[name][STATE_FIELDS.index(key)])
                assert_close(quick_one, getattr(reference.states[name], key), f"step {number} {name} {key}")
            if fast.settings.mode != "off":
                ratio = float(clean_rows(fast.rows)[names.index(name), RING_COLUMNS.index("spike_ratio")])
                assert_close(ratio, reference.outcomes[name].spike_ratio, f"step {number} {name} spike_ratio")
                if 0 < reference.outcomes[name].raw_norm < math.inf:
                    fade = float(fast.rows[names.index(name), RING_COLUMNS.index("fade")])
                    assert_close(fade, reference.outcomes[name].fade, f"step {number} {name} fade")
                for key in ("raw_norm", "stabilized_norm"):
                    assert_close(quick[name][key], exact[name][key], f"step {number} {name} {key}")
            if their.grad is None:
                assert our.grad is None
            else:
                assert our.grad is not None
                torch.testing.assert_close(our.grad, their.grad, rtol=TOLERANCE, atol=0.0, equal_nan=True)


@settings(max_examples=3 * settings().max_examples)
@given(initial=changes, history=st.lists(steps, min_size=1, max_size=25))
def test_fast_and_reference_agree_over_random_histories(initial: dict[str, object], history: list[Step]) -> None:
    run_both(Settings(**initial), history)  # type: ignore[arg-type]  # drawn per field above


def test_fast_and_reference_agree_over_a_long_history_with_every_kind_of_event() -> None:
    history = [Step(seed=7 * number) for number in range(400)]
    history[50].sizes = (1e3, 1e6, 1.0, 0.0)
    history[90].sizes = (math.nan, 1.0, math.inf, None)
    for number, mode in ((100, "observe"), (130, "stabilize"), (200, "off"), (230, "stabilize"), (260, "observe")):
        history[number].changes = {"mode": mode}
    history[150].changes = {"gamma1": 0.999, "gamma2": 0.9}
    history[170].changes = {"spike_limit": 3.0, "spike_fade": True}
    history[180].sizes = (1e4,) * len(SHAPES)
    history[190].reset = True
    history[300].changes = {"mode": "stabilize", "transfer": "plain"}
    run_both(Settings(), history)


@pytest.mark.parametrize("elements", [1_000, 40_000, 1_000_000, 5_000_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_norms_of_large_tensors_are_exact_too(dtype: torch.dtype, elements: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(elements, dtype=dtype))
    transposed = torch.nn.Parameter(torch.zeros(elements // 100, 100, dtype=dtype).t())
    values = torch.randn(elements, generator=torch.Generator().manual_seed(1)).to(dtype)
    parameter.grad, transposed.grad = values.clone(), values.clone().view(-1, 100).t()
    stabilizer = GradientStabilizer([("p", parameter), ("transposed", transposed)], mode="observe")
    stabilizer.apply()
    exact = float(torch.linalg.vector_norm(values.double()))
    for statistics in stabilizer.statistics().values():
        assert statistics["raw_norm"] == pytest.approx(exact, rel=5e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_statistics_are_exact_for_other_gradient_dtypes(dtype: torch.dtype) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1000, dtype=dtype))
    stabilizer = GradientStabilizer([("p", parameter)])
    for seed in range(20):
        grad = (torch.randn(1000, generator=torch.Generator().manual_seed(seed)) * 1e-5).to(dtype)
        parameter.grad = grad.clone()
        stabilizer.apply()
        statistics = stabilizer.statistics()["p"]
        norm = float(torch.linalg.vector_norm(grad.double()))
        assert statistics["raw_norm"] == pytest.approx(norm, rel=1e-5)
        expected = (grad.double() * statistics["scale"]).to(dtype)
        torch.testing.assert_close(parameter.grad, expected, rtol=torch.finfo(dtype).eps, atol=0.0)
