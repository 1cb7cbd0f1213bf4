"""Gradients as they come: dtypes, layouts, absences, devices, each against the norm that torch gives in double."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm import parameters
from steadynorm.stabilizer.gradients import Gradients, _norms_at_once
from steadynorm.stabilizer.stabilizer import GradientStabilizer

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128]


def exact_norm(gradient: torch.Tensor) -> float:
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    wide = torch.complex128 if dense.is_complex() else torch.float64
    return float(torch.linalg.vector_norm(dense.to(wide)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "scalar"])
def test_every_dtype_and_layout_keeps_its_direction_and_gets_its_target(dtype: torch.dtype, layout: str) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(60, 40, dtype=torch.complex128 if dtype.is_complex else torch.float64, generator=generator)
    values = {"transposed": values.t(), "strided": values[::2, ::3], "scalar": values[0, 0]}.get(layout, values)
    gradient = (values * 1e-3).to(dtype)  # keeps the strides, dense ones at least
    parameter = torch.nn.Parameter(torch.zeros_like(gradient))
    calm = torch.nn.Parameter(torch.zeros(3))
    stabilizer = GradientStabilizer([("p", parameter), ("calm", calm)])
    parameter.grad, calm.grad = gradient.clone(), torch.ones(3)
    if layout == "strided":
        wide = torch.zeros(30, 28, dtype=dtype)
        parameter.grad = wide[:, ::2].copy_(gradient)
        assert not parameter.grad.is_contiguous()
    stabilizer.apply()
    row = stabilizer.statistics()["p"]
    assert row["raw_norm"] == pytest.approx(exact_norm(gradient), rel=1e-5)
    assert exact_norm(parameter.grad) == pytest.approx(1.0, rel=5e-3 if dtype.itemsize == 2 else 1e-5)
    direction = gradient.to(values.dtype) / exact_norm(gradient)
    torch.testing.assert_close(parameter.grad.to(values.dtype), direction, rtol=1e-2, atol=1e-4)


def test_statistics_are_float32_whatever_the_gradients_are() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(5, dtype=dtype)) for dtype in DTYPES]
    stabilizer = GradientStabilizer([(f"p{i}", p) for i, p in enumerate(parameters)])
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 0.01)
    stabilizer.apply()
    assert stabilizer.rows.dtype is torch.float32
    assert {rows.dtype for rows in stabilizer.state_dict()["parameters"].values()} == {torch.float32}
    assert {round(row["target"], 5) for row in stabilizer.statistics().values()} == {1.0}


@pytest.mark.parametrize("others", [[], [(300, 70), (2, 3, 2, 2), ()]], ids=["alone", "among others"])
def test_small_tensors_of_one_shape_are_measured_together(
    others: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = [*others, *[(64,)] * 5, *[(6, 4)] * 9 * bool(others), *[(64,)] * 5]
    parameters: list[torch.Tensor] = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    gradients, norms = Gradients(parameters), torch.zeros(len(shapes))
    one_by_one: list[int] = []
    measure = torch._foreach_norm

    def count(tensors: list[torch.Tensor], *args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        one_by_one.append(len(tensors))
        return measure(tensors, *args, **kwargs)

    monkeypatch.setattr(torch, "_foreach_norm", count)
    for change in ("none", "transposed", "absent", "sparse"):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape) * 10 ** float(torch.randn(()))
        if change == "transposed" and others:
            parameters[8].grad = torch.randn(4, 6).t()
        elif change == "absent":
            parameters[-1].grad = None
        elif change == "sparse":
            parameters[-1].grad = torch.randn(64).to_sparse()
        present = gradients.measure(norms)
        assert len(present[0]) == len(present[1]) == len(shapes) - (change == "absent")
        expected = [0.0 if each.grad is None else exact_norm(each.grad) for each in parameters]
        assert norms.tolist() == pytest.approx(expected, rel=1e-5)
    # Without one of them, or with one that is sparse, as it was before.
    whole = len(shapes) - (1 if others else 0)  # the matrix has a dot product
    assert one_by_one == [2, 2, whole - 1, whole] if others else [whole - 1, whole]


def test_complex_conjugates_and_nonfinite_complex_gradients_are_handled() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.complex64))
    stabilizer = GradientStabilizer([("p", parameter)])
    parameter.grad = torch.full((4,), 3 + 4j, dtype=torch.complex64).conj()
    stabilizer.apply()
    assert stabilizer.statistics()["p"]["raw_norm"] == pytest.approx(10.0)
    assert parameter.grad[0].item() == pytest.approx(0.3 - 0.4j)
    parameter.grad = torch.tensor([1, 2, 3, complex("nan")], dtype=torch.complex64)
    stabilizer.apply()
    assert parameter.grad.tolist() == [0j] * 4
    assert stabilizer.statistics()["p"]["nonfinite"] == 1


def test_scales_are_not_rounded_to_half_precision_where_torch_would() -> None:
    # An accelerator rounds a 0-dim scale to the gradient's dtype; complex halves show the same on the CPU.
    with pytest.warns(UserWarning, match="ComplexHalf"):
        parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.complex32))
    parameter.grad = torch.full((3,), 1e-5).to(torch.complex32)
    before = parameter.grad[0].item().real
    Gradients([parameter]).scale(([0], [parameter.grad]), torch.tensor([1e6]))
    assert parameter.grad[0].item().real == pytest.approx(before * 1e6, rel=1e-3)


def sparse(rows: list[int], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    values = torch.randn(len(rows), 3, generator=generator).to(dtype)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (8, 3), check_invariants=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sparse_gradients_are_coalesced_and_stabilized_like_dense_ones(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    names = ["sparse", "dense", "twin"]
    parameters = {name: torch.nn.Parameter(torch.zeros(8, 3, dtype=dtype)) for name in names}
    stabilizer = GradientStabilizer(parameters.items(), gamma2=0.9)
    for step, rows in enumerate([[1, 4, 1, 1], [2], [], [0, 7, 7], [5, 3]]):
        gradient = sparse(rows, generator, dtype)
        dense = gradient.to_dense()
        parameters["sparse"].grad, parameters["twin"].grad = gradient, dense.clone()
        parameters["dense"].grad = torch.ones(8, 3, dtype=dtype) if step != 3 else None
        stabilizer.apply()
        found = parameters["sparse"].grad
        assert found.is_sparse
        assert found.is_coalesced()
        tolerance = 2e-2 if dtype is torch.bfloat16 else 1e-5
        torch.testing.assert_close(found.to_dense(), parameters["twin"].grad, rtol=tolerance, atol=1e-6)
        table = stabilizer.statistics()
        assert table["sparse"]["raw_norm"] == pytest.approx(exact_norm(dense), rel=5e-3, abs=1e-12)
        assert table["sparse"]["updates"] == table["twin"]["updates"]
    assert table["sparse"]["updates"] == 4  # an empty gradient is no sample
    parameters["sparse"].grad = sparse([1, 2], generator, dtype)
    parameters["sparse"].grad._values()[0, 0] = torch.nan
    stabilizer.apply()
    assert parameters["sparse"].grad.to_dense().abs().sum() == 0
    assert stabilizer.statistics()["sparse"]["nonfinite"] == 1


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_sparse_gradients_pass_with_their_gain(mode: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(8, 3))
    stabilizer = GradientStabilizer([("p", parameter)])
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        parameter.grad = sparse([1, 1, 2], generator)
        stabilizer.apply()
    stabilizer.configure(mode=mode)
    for _ in range(3):
        gradient = sparse([3, 3], generator)
        dense = gradient.to_dense()
        parameter.grad = gradient
        stabilizer.apply()
        expected = dense * stabilizer.statistics()["p"]["scale"]
        torch.testing.assert_close(parameter.grad.to_dense(), expected)
    assert stabilizer.statistics()["p"]["scale"] != 1.0


def test_observing_a_sparse_gradient_from_the_start_leaves_its_values_bit_for_bit() -> None:
    parameter = torch.nn.Parameter(torch.zeros(8, 3))
    gradient = sparse([1, 4], torch.Generator().manual_seed(0)).coalesce()
    parameter.grad = gradient.clone()
    GradientStabilizer([("p", parameter)], mode="observe").apply()
    assert torch.equal(parameter.grad.to_dense(), gradient.to_dense())


def test_a_gradient_of_another_dtype_than_its_parameter_is_measured_in_its_own() -> None:
    parameter, other = torch.nn.Parameter(torch.zeros(6)), torch.nn.Parameter(torch.ones(2))
    parameter.grad_dtype = torch.float64
    stabilizer = GradientStabilizer([("p", parameter), ("q", other)])
    for _ in range(2):
        parameter.grad = torch.full((6,), 0.5, dtype=torch.float64)
        other.grad = torch.ones(2)
        stabilizer.apply()
        assert stabilizer.statistics()["p"]["raw_norm"] == pytest.approx(exact_norm(torch.full((6,), 0.5)))
        assert exact_norm(parameter.grad) == pytest.approx(1.0, rel=1e-5)


def test_a_tied_weight_is_scaled_once(make_training: type[Training]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    agent = steadynorm.attach(model, optimizer)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    weight = model[0].weight
    assert list(agent.statistics()) == ["0.weight", "0.bias", "1.bias"]
    assert isinstance(weight.grad, torch.Tensor)
    assert exact_norm(weight.grad) == pytest.approx(1.0, rel=1e-5)
    agent.close()


def test_parameters_on_several_devices_have_a_stabilizer_each_and_are_recorded_as_one_run(
    make_training: type[Training], stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: str) -> tuple[list[torch.Tensor], Any]:
        training = make_training()
        with steadynorm.attach(training.model, training.optimizer, server=stub.url, run=run, detail_every=1) as agent:
            for _ in range(12):
                agent.log(loss=training.step())
            count = len(agent.stabilizers)
        return training.weights(), (count, stub.runs[agent.run_id])

    whole, (one, expected) = train("one device")
    # There is one device here: let matrices and vectors count as being on two.
    split = lambda pairs: [[pair for pair in pairs if pair[1].dim() == dim] for dim in (1, 2)]  # noqa: E731
    assert len(parameters.split_by_device([("p", torch.zeros(1)), ("q", torch.zeros(1, device="meta"))])) == 2
    monkeypatch.setattr("steadynorm.agent.split_by_device", split)
    parts, (two, found) = train("two devices")
    assert (one, two) == (1, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert found.steps == expected.steps == list(range(1, 13))
    for column in ("loss", "raw_norm", "stabilized_norm", "target_min", "spike_ratio_max", "learning_rate"):
        assert found.column(column) == pytest.approx(expected.column(column), rel=1e-6), column
    names = [parameter.name for parameter in found.registrations[0].parameters]
    assert names == ["0.bias", "2.bias", "0.weight", "2.weight"]


def test_a_model_that_is_partly_on_another_device_is_stabilized_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "_check_memory", lambda _: None)  # "meta" stands for a second device here
    here, there = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4, device="meta"))
    model = torch.nn.Module()
    model.here, model.there = here, there
    optimizer = torch.optim.SGD([there, here], lr=0.5, foreach=False)
    agent = steadynorm.attach(model, optimizer)
    agent._boundary.began = True  # whose gradients could not be read
    here.grad, there.grad = torch.full((4,), 6.0), torch.ones(4, device="meta")
    optimizer.step()
    assert [stabilizer.device.type for stabilizer in agent.stabilizers] == ["meta", "cpu"]
    assert agent.stabilizers[1].statistics()["here"]["raw_norm"] == pytest.approx(12.0)
    assert exact_norm(here.grad) == pytest.approx(1.0)
    assert agent.counters.errors == 0
    for stabilizer in agent.stabilizers:  # a GradScaler's tensors are on one device
        stabilizer.apply(torch.tensor(2.0), torch.tensor(0.0))
    assert agent.stabilizers[1].statistics()["here"]["raw_norm"] == pytest.approx(0.5)
    agent.close()


def test_one_stabilizer_alone_refuses_several_devices_with_advice() -> None:
    parameters = [("p", torch.nn.Parameter(torch.ones(1))), ("q", torch.nn.Parameter(torch.ones(1, device="meta")))]
    with pytest.raises(ValueError, match="must be on one device: got cpu, meta"):
        GradientStabilizer(parameters)


def test_on_an_accelerator_norms_are_taken_by_dtype_in_one_call_each(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[set[torch.dtype]] = []

    def foreach_norm(gradients: list[torch.Tensor], order: float, dtype: torch.dtype) -> list[int]:
        calls.append({gradient.dtype for gradient in gradients})
        return [len(gradient) for gradient in gradients]

    monkeypatch.setattr(torch, "_foreach_norm", foreach_norm)
    dtypes = [torch.float32, torch.bfloat16, torch.float32, torch.float16, torch.bfloat16]
    found = _norms_at_once([torch.empty(size, dtype=dtype, device="meta") for size, dtype in enumerate(dtypes)])
    assert list(map(int, found)) == [0, 1, 2, 3, 4]
    assert sorted(map(str, calls)) == sorted(str({dtype}) for dtype in set(dtypes))


def test_tensors_that_are_alike_no_more_are_measured_one_by_one() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(64)) for _ in range(8)]
    gradients = Gradients(list(parameters))
    parameters[3].data = torch.zeros(128)  # together they can still be cut into eight parts of one size
    for at, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, at + 1.0)
    gradients.measure(out=(norms := torch.zeros(8)))
    assert torch.equal(norms, torch.stack([each.grad.norm() for each in parameters if each.grad is not None]))
