"""An optimizer for each parameter, stepped within backward() or in a loop: as a single one, and recorded as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch

import steadynorm
from steadynorm.hooks import OptimizerHooks
from steadynorm_contract.telemetry import Desired

if TYPE_CHECKING:
    from tests.support.agent import StubServer

LAYERS, STEPS = 6, 14


class Training:
    """A chain of layers, each weight and bias with an SGD of its own."""

    def __init__(self, *, within_backward: bool, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(*(torch.nn.Linear(5, 5) for _ in range(LAYERS)))
        self.optimizers = [torch.optim.SGD([p], lr=1e-3 * (1 + at)) for at, p in enumerate(self.model.parameters())]
        self.agent = steadynorm.attach(self.model, self.optimizers, **options)
        self.rates: list[float] = []
        self.within_backward = within_backward
        self.left_out: set[int] = set()
        for at, (parameter, optimizer) in enumerate(zip(self.model.parameters(), self.optimizers, strict=True)):
            optimizer.register_step_pre_hook(lambda each, *_: self.rates.append(each.param_groups[0]["lr"]))
            if within_backward:
                parameter.register_post_accumulate_grad_hook(lambda _, at=at: self._step(at))

    def _step(self, at: int) -> None:
        if at not in self.left_out:
            self.optimizers[at].step()
        self.optimizers[at].zero_grad()

    def step(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        loss = 100 * (self.model(torch.randn(8, 5, generator=generator)) - 1).square().mean()
        loss.backward()
        if not self.within_backward:
            for at in range(len(self.optimizers)):
                self._step(at)

    def run(self) -> tuple[torch.Tensor, dict[str, dict[str, float]]]:
        for number in range(STEPS):
            if number == 9:
                changed = msgspec.structs.replace(self.agent.settings, lr_scale=0.5, gamma2=0.9)
                self.agent._mailbox.put(Desired(1, changed))
            self.step(number)
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]), self.agent.statistics()


@pytest.mark.parametrize("within_backward", [True, False], ids=["in backward", "in a loop"])
def test_few_calls_do_what_all_of_them_do(within_backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Training(within_backward=within_backward)
    own, taken = OptimizerHooks._goes_on, list[bool]()

    def goes_on(*given: Any) -> bool:
        taken.append(own(*given))
        return taken[-1]

    with monkeypatch.context() as patched:
        patched.setattr(OptimizerHooks, "_goes_on", goes_on)
        weights, statistics = few.run()
        patched.setattr(OptimizerHooks, "_goes_on", lambda *_: False)
        all_ = Training(within_backward=within_backward)
        expected, known = all_.run()
    assert taken.count(True) >= (STEPS - 8) * (2 * LAYERS - 1)
    assert torch.equal(weights, expected)
    assert statistics == known
    assert few.rates == all_.rates, "whoever looks sees the rates as they are"
    assert few.agent.step == STEPS
    assert {row["updates"] for row in statistics.values()} == {STEPS}
    assert few.agent.counters.errors == 0
    for each in (few, all_):
        each.agent.close()


def test_a_round_is_recorded_as_one_step_with_what_took_part_in_it(stub: StubServer) -> None:
    training = Training(within_backward=True, server=stub.url, detail_every=1)
    raw: list[dict[str, float]] = []
    for number in range(STEPS):
        training.left_out = {3} if number == 10 else set()
        training.step(number)
        training.agent.log(loss=float(number))
        raw.append({name: row["raw_norm"] for name, row in training.agent.statistics().items()})
    names = [name for name, _ in training.model.named_parameters()]
    training.agent.close()
    assert stub.run.steps == list(range(1, STEPS + 1))
    assert [parameter.name for parameter in stub.run.registrations[0].parameters] == names
    column = stub.run.column
    assert column("learning_rate") == pytest.approx([1e-3] * STEPS), "the first optimizer's, though it steps last"
    assert column("loss") == [float(number) for number in range(STEPS)]
    took_part = [[name for name in names if number != 10 or name != names[3]] for number in range(STEPS)]
    expected = [sum(norms[name] ** 2 for name in those) ** 0.5 for norms, those in zip(raw, took_part, strict=True)]
    assert column("raw_norm") == pytest.approx(expected, rel=1e-5)


def test_a_step_that_raises_is_over() -> None:
    training = Training(within_backward=False)
    for number in range(8):
        training.step(number)
    handle = training.optimizers[4].register_step_pre_hook(lambda *_: 1 / 0)  # type: ignore[arg-type]  # it raises
    with pytest.raises(ZeroDivisionError):
        training.step(8)
    handle.remove()
    assert training.agent._hooks[4]._step_frame is None, "it would hold all variables of its callers"
    training.model.zero_grad()
    for number in range(3):
        training.step(number)
    assert training.agent.step == 12
    assert training.agent.counters.errors == 0
    updates = [row["updates"] for row in training.agent.statistics().values()]
    assert updates == [12] * 5 + [11] * (2 * LAYERS - 5)
    training.agent.close()
