"""torch's defaults belong to the training program: the agent's numbers do not depend on them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

import steadynorm
from steadynorm.distributed.exchange import Exchange, RankStatus, SettingsBroadcast
from steadynorm.distributed.fingerprint import Fingerprints
from steadynorm.stabilizer.kernels.launcher import MultiTensor
from steadynorm.stabilizer.statistics import RING_COLUMNS, Statistics

if TYPE_CHECKING:
    from tests.support.agent import StubServer

DEFAULTS = ["float16", "bfloat16", "float64", "device meta", "device meta here"]


@contextlib.contextmanager
def default(name: str) -> Iterator[None]:
    """torch's defaults, for the time of a block."""
    with contextlib.ExitStack() as stack:
        if name == "device meta here":
            stack.enter_context(torch.device("meta"))
        elif name == "device meta":
            stack.callback(torch.set_default_device, None)
            torch.set_default_device("meta")
        else:
            stack.callback(torch.set_default_dtype, torch.float32)
            torch.set_default_dtype(getattr(torch, name))
        yield


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape, dtype=dtype, device="cpu"))


def gradient(step: int, like: Tensor) -> Tensor:
    """Of norm 1, with one spike of 1000 at step 20, and one that is not finite at step 30."""
    generator = torch.Generator(device="cpu").manual_seed(step)
    values = torch.randn(like.shape, generator=generator, dtype=torch.float32, device="cpu")
    values *= (1000.0 if step == 20 else torch.inf if step == 30 else 1.0) / values.norm()
    return values.to(like.dtype)


def stabilized() -> list[Tensor]:
    """What a stabilizer leaves in 60 steps with changes of its settings, and its state."""
    parameters = {
        "a": parameter(64),
        "b": parameter(3, 5),
        "half": parameter(16, dtype=torch.bfloat16),
        "double": parameter(4, dtype=torch.float64),
    }
    stabilizer = steadynorm.GradientStabilizer(parameters.items())
    seen: list[Tensor] = []
    changes: dict[int, dict[str, object]] = {
        25: {"mode": "observe"},
        35: {"mode": "stabilize", "gamma2": 0.99},
        45: {"spike_limit": 3.0},
    }
    for step in range(1, 61):
        stabilizer.configure(**changes.get(step, {}))
        for each in parameters.values():
            each.grad = gradient(step, each)
        stabilizer.apply()
        stabilizer.apply_again()
        seen += [each.grad.clone() for each in parameters.values() if each.grad is not None]
        if step == 40:
            state = stabilizer.state_dict()
            stabilizer = steadynorm.GradientStabilizer(parameters.items())
            stabilizer.load_state_dict(state)
    seen += [stabilizer.rows.clone(), *stabilizer.state_dict()["parameters"].values()]
    return [*seen, *(torch.tensor(list(row.values()), dtype=torch.float64, device="cpu")
                     for row in stabilizer.statistics().values())]  # fmt: skip


def fingerprints() -> list[Tensor]:
    rows = torch.full((7, len(RING_COLUMNS)), 2.0, dtype=torch.float32, device="cpu")
    taken = Fingerprints([rows])
    taken.take()
    return [torch.tensor(taken.read(), dtype=torch.float64, device="cpu")]


def kernel_tables() -> list[Tensor]:
    """What the launcher puts on the device. Its kernel runs on GPUs only."""
    parameters: list[Tensor] = [parameter(64), parameter(40_000)]
    statistics = Statistics.allocate(2, torch.device("cpu"))
    rows = torch.zeros(2, len(RING_COLUMNS), dtype=torch.float32, device="cpu")
    launcher = MultiTensor(parameters, statistics, rows, steadynorm.Mode.OBSERVE)
    assert launcher._tables.tolist() == [each.data_ptr() for each in launcher._tensors]
    return [*launcher._tensors, launcher._addresses.collect([each.grad for each in parameters])[0]]


def sharded() -> list[Tensor]:
    """What a sharded parameter's collective leaves, on a mesh of one."""
    mesh = DeviceMesh("cpu", torch.zeros(1, dtype=torch.int64, device="cpu"))
    whole = parameter(8)
    shards = nn.Parameter(DTensor.from_local(whole.detach(), mesh, [Shard(0)]))
    stabilizer = steadynorm.GradientStabilizer([("p", shards)])
    for step in range(1, 6):
        shards.grad = DTensor.from_local(gradient(step, whole), mesh, [Shard(0)])
        stabilizer.apply()
    assert stabilizer.sharded
    return [stabilizer.rows.clone(), shards.grad.to_local()]  # type: ignore[union-attr]  # it was just set


def exchanged() -> list[Tensor]:
    """What the ranks' exchange brings."""
    exchange = Exchange(distributed.new_group(backend="gloo"))
    exchange.start(SettingsBroadcast(wait=True), RankStatus(norms=0.1, statistics=2.0))
    broadcast, (status,) = exchange.complete()
    exchange.close()
    return [torch.tensor([broadcast.wait, status.norms, status.statistics], dtype=torch.float64, device="cpu")]


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("part", [stabilized, fingerprints, kernel_tables, sharded, exchanged])
def test_numbers_do_not_depend_on_torchs_defaults(part: Callable[[], list[Tensor]], name: str) -> None:
    expected = part()
    with default(name):
        found = part()
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.dtype, ours.device) == (theirs.dtype, theirs.device)
        assert torch.equal(ours.nan_to_num(nan=-7.0), theirs.nan_to_num(nan=-7.0))


def train(server: str, run: str) -> list[Tensor]:
    """60 steps with a loss on a tensor, a new parameter on the way, and a checkpoint."""
    model = nn.ParameterDict({"a": parameter(64), "b": parameter(3, 5)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with steadynorm.attach(model, optimizer, server=server, run=run, detail_every=1) as agent:
        for step in range(1, 61):
            if step == 31:
                model["late"] = parameter(7)
                optimizer.add_param_group({"params": [model["late"]]})
                agent.load_state_dict(agent.state_dict())
            for each in model.values():
                each.grad = gradient(step, each)
            optimizer.step()
            agent.log(loss=torch.tensor(float(step), dtype=torch.float64, device="cpu"))
        assert agent.counters.errors == 0
        assert agent.flush(20)
    return [each.detach().clone() for each in model.values()]


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_run_is_recorded_the_same_under_torchs_defaults(stub: StubServer, name: str) -> None:
    expected = train(stub.url, "float32")
    with default(name):
        found = train(stub.url, "other")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    stored = [
        (
            run.steps,
            [batch.scalars.data for batch in run.batches if batch.scalars],
            b"".join(batch.rows.data for batch in run.batches if batch.rows),
        )
        for run in stub.runs.values()
    ]
    assert stored[0][0] == stored[1][0]
    assert b"".join(stored[0][1]) == b"".join(stored[1][1])
    assert stored[0][2] == stored[1][2]


IMPORTED_LATE = """
import sys, torch
torch.set_default_dtype(torch.float16)
torch.set_default_device("meta")
import steadynorm
parameters = [torch.nn.Parameter(torch.zeros(4, dtype=torch.float32, device="cpu")) for _ in range(2)]
first, second = (torch.optim.SGD([each], lr=0.1) for each in parameters)
agent = steadynorm.attach(torch.nn.ParameterList(parameters), [first, second], server=sys.argv[1])
for step in range(6):
    for each in parameters:
        each.grad = torch.ones(4, dtype=torch.float32, device="cpu")
    first.step()
    if step % 2:  # in the other steps the second one's parameter is absent
        second.step()
assert agent.flush(20), agent.counters
agent.close()
print(agent.counters.errors, agent.counters.dropped)
"""


@pytest.mark.slow
def test_constants_of_the_modules_do_not_follow_defaults_that_were_set_before_the_import(stub: StubServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTED_LATE, stub.url], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "0"]
    assert stub.run.column("raw_norm") == pytest.approx([2.0, 8**0.5] * 3)
