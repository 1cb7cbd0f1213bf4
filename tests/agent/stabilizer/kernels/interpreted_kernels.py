"""The kernels in Triton's interpreter. Run by test_kernels_interpreted.py, in a process of its own: the interpreter is
chosen by the environment, before Triton is imported for the first time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from steadynorm.stabilizer.gradients import Gradients
from steadynorm.stabilizer.kernels import verification
from steadynorm.stabilizer.kernels.addresses import Addresses
from steadynorm.stabilizer.kernels.plan import BLOCK
from steadynorm.stabilizer.kernels.triton import ABSENT, ELSEWHERE
from steadynorm.stabilizer.reference import ReferenceStabilizer
from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm.stabilizer.statistics import DeviceSettings
from steadynorm_contract.settings import Mode, Settings

assert os.environ.get("TRITON_INTERPRET") == os.environ.get("STEADYNORM_KERNELS") == "1"

# The interpreter computes with numpy, which warns where a GPU divides by zero in silence.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")

CPU = torch.device("cpu")
KEYS = ("raw_norm", "stabilized_norm", "norm_mean", "norm_rms", "target", "scale", "updates", "nonfinite")


def named(parameters: list[torch.nn.Parameter]) -> list[tuple[str, torch.nn.Parameter]]:
    return [(f"p{index}", parameter) for index, parameter in enumerate(parameters)]


def with_kernels(parameters: list[torch.nn.Parameter], **given: Any) -> GradientStabilizer:
    stabilizer = GradientStabilizer(named(parameters), **given)
    assert stabilizer._kernels is not None, "torch did it all: nothing would be tested"
    return stabilizer


def with_torch(parameters: list[torch.nn.Parameter], **given: Any) -> GradientStabilizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEADYNORM_KERNELS", "0")
        stabilizer = GradientStabilizer(named(parameters), **given)
    assert stabilizer._kernels is None
    return stabilizer


def assert_agree(ours: Any, theirs: Any, what: str, keys: tuple[str, ...] = KEYS) -> None:
    for name, expected in theirs.statistics().items():
        for key in keys:
            value = ours.statistics()[name][key]
            assert value == pytest.approx(expected[key], rel=1e-5, abs=1e-30, nan_ok=True), f"{what} {name} {key}"


def test_every_dtype_mode_and_boundary_of_a_chunk_agrees_with_the_reference() -> None:
    assert verification.differences(CPU) == []


def test_the_proof_finds_a_rule_that_is_a_little_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "SIZES", (5,))
    fill = DeviceSettings.fill
    monkeypatch.setattr(
        DeviceSettings, "fill", lambda self, settings: fill(self, Settings(gamma1=0.601, mode=settings.mode))
    )
    assert "scale" in verification.differences(CPU)[0]


modes = st.sampled_from(["off", "observe", "clip", "stabilize"])
changes = st.fixed_dictionaries(
    {},
    optional={
        "mode": modes,
        "gamma1": st.sampled_from([0.0, 0.6, 0.99]),
        "gamma2": st.sampled_from([0.0, 0.9, 0.999]),
        "eps": st.sampled_from([1e-12, 1e-3]),
        "spike_limit": st.sampled_from([None, 1.5, 10.0]),
        "spike_fade": st.booleans(),
        "transfer": st.sampled_from(["bumpless", "plain"]),
        "clip_norm": st.sampled_from([0.5, 3.0, "auto"]),
    },
)
sizes = st.one_of(st.floats(0.1, 10.0), st.sampled_from([None, 0.0, math.nan, -math.inf, 1e-6, 1e6]))
history = st.lists(st.tuples(changes, st.booleans(), st.tuples(sizes, sizes)), min_size=2, max_size=10)


@settings(max_examples=15, derandomize=True)
@given(initial=changes, history=history)
def test_the_kernels_agree_with_the_reference_over_random_histories(
    initial: dict[str, Any], history: list[tuple[dict[str, Any], bool, tuple[float | None, ...]]]
) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), ())] for _ in range(2))
    fast, reference = with_kernels(ours, **initial), ReferenceStabilizer(named(theirs), Settings(**initial))
    for number, (changed, reset, drawn) in enumerate(history):
        for stabilizer in (fast, reference):
            stabilizer.configure(**changed)
            if reset:
                stabilizer.reset()
        for our, their, size in zip(ours, theirs, drawn, strict=True):
            values = torch.randn(their.shape, generator=torch.Generator().manual_seed(number))
            their.grad = None if size is None else values * size
            our.grad = None if their.grad is None else their.grad.clone()
        fast.apply()
        reference.apply()
        measured = KEYS if fast.settings.mode != "off" else KEYS[2:]
        assert_agree(fast, reference, f"step {number}", measured)
        for our, their in zip(ours, theirs, strict=True):
            if their.grad is not None:
                torch.testing.assert_close(our.grad, their.grad, rtol=1e-5, atol=0.0, equal_nan=True)


def test_a_clip_by_the_kernels_is_torchs_to_1e_6_with_the_norms_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (BLOCK + 7,), ())] for _ in range(2))
    stabilizer = with_kernels(ours, mode="clip", clip_norm=1.0)
    for by_torch in ("scale", "measure_some", "_measure_here"):
        monkeypatch.delattr(Gradients, by_torch)
    for step, size in enumerate((1e-4, 1.0, 1e6, 3e-3, math.inf)):
        for our, their in zip(ours, theirs, strict=True):
            their.grad = torch.randn(their.shape, generator=torch.Generator().manual_seed(step)) * size
            our.grad = their.grad.clone()
        norms = [float(torch.linalg.vector_norm(their.grad)) for their in theirs]
        stabilizer.apply()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        found = [each["raw_norm"] for each in stabilizer.statistics().values()]
        assert found == pytest.approx(norms, rel=1e-5), "those before the clip"
        for our, their in zip(ours, theirs, strict=True):
            expected = torch.zeros_like(their) if size == math.inf else their.grad
            torch.testing.assert_close(our.grad, expected, rtol=1e-6, atol=0.0)


def awkward_parameters() -> list[torch.nn.Parameter]:
    shapes_and_dtypes = [
        ((6, 5), torch.float32),
        ((6, 5), torch.float32),
        ((BLOCK + 9,), torch.bfloat16),
        ((8,), torch.float64),
        ((10, 4), torch.float32),
        ((0,), torch.float32),
    ]
    return [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes_and_dtypes]


def set_awkward_gradients(parameters: list[torch.nn.Parameter], seed: int) -> None:
    """Transposed; with holes; at an odd address; float64; sparse; empty."""
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    parameters[0].grad = values(5, 6).t()
    parameters[1].grad = values(6, 10)[:, ::2]
    parameters[2].grad = values(BLOCK + 10).to(torch.bfloat16)[1:]
    parameters[3].grad = values(8).double()
    parameters[4].grad = torch.sparse_coo_tensor(torch.tensor([[1, 7]]), values(2, 4), (10, 4), check_invariants=True)
    parameters[4].grad = parameters[4].grad.coalesce()
    parameters[5].grad = torch.zeros(0)


@pytest.mark.parametrize("mode", ["observe", "clip", "stabilize"])
def test_gradients_that_the_kernel_cannot_take_are_left_to_torch(mode: str) -> None:
    ours, theirs = awkward_parameters(), awkward_parameters()
    fast, slow = with_kernels(ours, mode=mode), with_torch(theirs, mode=mode)
    for seed in range(4):
        if seed == 2:
            for stabilizer in (fast, slow):
                stabilizer.configure(mode="observe" if mode == "stabilize" else "stabilize")
        set_awkward_gradients(ours, seed)
        set_awkward_gradients(theirs, seed)
        fast.apply()
        slow.apply()
        assert_agree(fast, slow, f"step {seed}")
        for our, their in zip(ours, theirs, strict=True):
            assert our.grad is not None
            assert their.grad is not None
            tolerance = 1e-5 if our.dtype is not torch.bfloat16 else 1e-2  # the interpreter truncates
            torch.testing.assert_close(our.grad.to_dense(), their.grad.to_dense(), rtol=tolerance, atol=0.0)


def test_the_table_knows_where_each_gradient_is_and_follows_it() -> None:
    parameters = awkward_parameters()
    set_awkward_gradients(parameters, 0)
    dtypes = [None if p.dtype is torch.float64 else p.dtype for p in parameters]
    addresses = Addresses([p.numel() for p in parameters], dtypes, CPU)
    expected = [p.grad.data_ptr() if i in (0, 2) else ELSEWHERE for i, p in enumerate(parameters)]  # type: ignore[union-attr]  # just set
    expected[5] = ABSENT
    table, elsewhere = addresses.collect([p.grad for p in parameters])
    assert table.tolist() == expected
    assert elsewhere == [1, 3, 4]
    parameters[1].grad, parameters[0].grad = torch.ones(6, 5), None
    table, elsewhere = addresses.collect([p.grad for p in parameters])
    assert table.tolist() == [ABSENT, parameters[1].grad.data_ptr(), *expected[2:]]
    assert elsewhere == [3, 4]


@pytest.mark.parametrize("size", [40, 160, 0])
def test_a_parameter_whose_memory_was_exchanged_is_measured_as_it_is_and_nothing_beside_it_is_written(
    size: int,
) -> None:
    parameter, other = torch.nn.Parameter(torch.zeros(100)), torch.nn.Parameter(torch.zeros(3))
    stabilizer = with_kernels([parameter, other], mode="observe")
    memory = torch.full((200,), 7.0)
    parameter.grad, other.grad = memory[:100], torch.ones(3)
    stabilizer.apply()
    stabilizer._statistics.gain.fill_(0.5)
    stabilizer._gains_changed = True
    parameter.grad = None
    parameter.data = torch.zeros(size)
    parameter.grad = memory[:size]  # at the same address, as an allocator returns it
    stabilizer.apply()
    assert memory.tolist() == [3.5] * size + [7.0] * (200 - size)
    assert other.grad.tolist() == [0.5] * 3
    assert stabilizer.statistics()["p0"]["raw_norm"] == pytest.approx(7.0 * math.sqrt(size))
    parameter.grad = None
    parameter.data = torch.zeros(100)
    parameter.grad = memory[100:]
    stabilizer.apply()
    assert stabilizer.statistics()["p0"]["raw_norm"] == pytest.approx(memory[100:].norm().item() * 2)


def test_a_recorded_step_follows_settings_that_the_host_does_not_know_of() -> None:
    """As a captured graph: the launches stay the same, and only the settings on the device change."""
    ours, theirs = ([torch.nn.Parameter(torch.zeros(9)) for _ in range(3)] for _ in range(2))
    recorded, reference = with_kernels(ours), ReferenceStabilizer(named(theirs))
    kernels = recorded._kernels
    assert kernels is not None
    for step, mode in enumerate(["stabilize", "observe", "observe", "off", "stabilize", "stabilize"]):
        changed = {"mode": mode, "gamma2": 0.9 + step / 100}
        recorded.configure(**changed)
        reference.configure(**changed)
        for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            their.grad = torch.randn(9, generator=torch.Generator().manual_seed(step + index))
            our.grad = their.grad.clone()
        if step == 0:
            recorded.apply()  # as one warms up before a capture
        else:
            kernels.step(Mode.STABILIZE, True, None, None)
        reference.apply()
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our.grad, their.grad, rtol=1e-5, atol=0.0)
        assert recorded.state_dict()["mode"] == mode


def test_a_recorded_clip_follows_its_limit_and_a_change_of_mode() -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(9)) for _ in range(3)] for _ in range(2))
    recorded = with_kernels(ours, mode="clip", transfer="plain")
    reference = ReferenceStabilizer(named(theirs), recorded.settings)
    changed: list[dict[str, Any]] = [
        {},
        {"clip_norm": 0.25},
        {"mode": "observe"},
        {"mode": "stabilize"},
        {"mode": "clip"},
    ]
    for step, change in enumerate(changed):
        recorded.configure(**change)
        reference.configure(**change)
        for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            their.grad = torch.randn(9, generator=torch.Generator().manual_seed(step + index))
            our.grad = their.grad.clone()
        recorded._apply_clip(Mode.CLIP, None, None)  # its launches, in whatever mode
        reference.apply()
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our.grad, their.grad, rtol=1e-5, atol=0.0)
        assert recorded.state_dict()["mode"] == reference.settings.mode


def test_the_two_paths_take_over_from_each_other_by_a_state_dict() -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(9))] for _ in range(2))
    stabilizer, reference = (
        with_kernels(ours, mode="observe"),
        ReferenceStabilizer(named(theirs), Settings(mode=Mode.OBSERVE)),
    )
    for step in range(12):
        if step % 3 == 2:  # at once with a change of mode: the new path must know the mode of the step before
            state = stabilizer.state_dict()
            stabilizer = (with_torch if step % 2 else with_kernels)(ours)
            stabilizer.load_state_dict(state)
            for each in (stabilizer, reference):
                each.configure(mode="stabilize" if each.settings.mode == "observe" else "observe")
        theirs[0].grad = torch.randn(9, generator=torch.Generator().manual_seed(step)) * 0.01
        ours[0].grad = theirs[0].grad.clone()
        stabilizer.apply()
        reference.apply()
        assert_agree(stabilizer, reference, f"step {step}")
        torch.testing.assert_close(ours[0].grad, theirs[0].grad, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("mode", ["stabilize", "clip"])
def test_loss_scaling_is_taken_out_of_the_norms_and_skipped_steps_count_for_nothing(mode: str) -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(9, dtype=torch.float16))] for _ in range(2))
    fast, slow = (
        make(given, mode=mode, clip_norm=1e-3) for make, given in ((with_kernels, ours), (with_torch, theirs))
    )
    steps = [(65536.0, 0.0, 1.0), (65536.0, 1.0, math.inf), (512.0, 0.0, 1.0), (None, None, 1.0), (512.0, None, 1.0)]
    for number, (scale, found, size) in enumerate(steps):
        theirs[0].grad = torch.full((9,), size, dtype=torch.float16)
        ours[0].grad = theirs[0].grad.clone()
        for stabilizer in (fast, slow):
            stabilizer.apply(
                None if scale is None else torch.tensor(scale), None if found is None else torch.tensor(found)
            )
        keys = tuple(key for key in KEYS if key != "stabilized_norm")
        assert_agree(fast, slow, f"step {number}", keys)
        if not found:
            torch.testing.assert_close(ours[0].grad, theirs[0].grad, rtol=1e-3, atol=0.0)
    assert fast.statistics()["p0"]["updates"] == 4


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceMesh]:
    """A mesh of one rank, whose all-reduce adds up four equal ones, of which some fail where `failures` says so."""

    def all_reduce(sums: torch.Tensor, group: object = None) -> None:
        sums.mul_(4.0)
        sums[-1] += failures.pop(0) if failures else 0.0

    failures.clear()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    made = DeviceMesh("cpu", torch.zeros(1, dtype=torch.int64))
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    yield made
    monkeypatch.undo()
    torch.distributed.destroy_process_group()


failures: list[float] = []


def test_local_shards_are_measured_and_scaled_by_the_norm_of_the_whole(mesh: DeviceMesh) -> None:
    def parameters() -> list[torch.nn.Parameter]:
        made = []
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32):
            local = torch.zeros(4, 3, dtype=dtype)
            made.append(torch.nn.Parameter(DTensor.from_local(local, mesh, [Shard(0)])))
        return [*made, torch.nn.Parameter(torch.zeros(5))]

    ours, theirs = parameters(), parameters()
    fast, slow = with_kernels(ours), with_torch(theirs)
    # In steps 5 and 6 another rank could not measure. The last step is under loss scaling.
    modes = ["stabilize", "clip", "observe", "off", "stabilize", "stabilize", "clip", "stabilize"]
    for step, mode in enumerate(modes):
        for index, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            if (step, index) == (2, 0):
                our.grad = their.grad = None
                continue
            values = torch.randn(their.shape, generator=torch.Generator().manual_seed(10 * step + index)).to(our.dtype)
            if (step, index) == (4, 3):
                values[0, 0] = math.nan
            for each, memory in ((our, values), (their, values.clone())):
                each.grad = DTensor.from_local(memory, mesh, [Shard(0)]) if index < 4 else memory
        scale = torch.tensor(512.0) if step == 7 else None
        for stabilizer in (fast, slow):
            stabilizer.configure(mode=mode, transfer="bumpless" if step < 6 else "plain")
            failures[:] = [float(step in (5, 6))]
            stabilizer.apply(scale)
        assert fast.collectives == slow.collectives == step + 1
        assert_agree(fast, slow, f"step {step}", KEYS if mode != "off" else KEYS[2:])
        for our, their in zip(ours, theirs, strict=True):
            if our.grad is not None and their.grad is not None:
                tolerance = 1e-5 if our.dtype is not torch.bfloat16 else 1e-2  # the interpreter truncates
                one, other = (each.to_local() if isinstance(each, DTensor) else each for each in (our.grad, their.grad))
                torch.testing.assert_close(one, other, rtol=tolerance, atol=0.0, equal_nan=True)
    last = torch.randn(4, 3, generator=torch.Generator().manual_seed(70))
    norm = fast.statistics()["p0"]["raw_norm"] * 512
    assert norm == pytest.approx(2 * float(last.norm()), rel=1e-5), "of four parts as long as this one"
