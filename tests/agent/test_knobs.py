"""Knobs in the training process: what the loop reads, what the optimizer sees in a step, and nobody outside of it."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm_contract.codec import encode_json

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


def attach(training: Training, stub: StubServer, **more: Any) -> steadynorm.Agent:
    return steadynorm.attach(training.model, training.optimizer, server=stub.url, **more)


def turned(training: Training, stub: StubServer, agent: steadynorm.Agent, **changes: object) -> None:
    """Train until a change is applied or rejected."""
    if not stub.runs:
        training.step()
        stub.wait_for(lambda: stub.runs)
    revision = stub.change(**changes)
    while not any(each.revision == revision for each in stub.run.reports):
        training.step()


def test_a_knob_is_turned_between_two_steps_and_never_out_of_its_range(training: Training, stub: StubServer) -> None:
    with attach(training, stub) as agent:
        coef = agent.knob("entropy_coef", 0.01, low=0, high=0.1, unit="nats", sentence="More is more exploration.")
        size = agent.knob("batch/size", 8, low=1, high=64, integer=True)
        assert (coef.value, size.value, type(size.value)) == (0.01, 8, int)
        turned(training, stub, agent, knobs={"entropy_coef": 0.02, "batch/size": 16.0})
        assert (coef.value, size.value, type(size.value)) == (0.02, 16, int)
        turned(training, stub, agent, knobs={"entropy_coef": 0.2, "batch/size": 32.0}, gamma2=0.9)
        assert (coef.value, size.value, agent.settings.gamma2) == (0.02, 16, 0.999)  # all of a revision or nothing
        turned(training, stub, agent, knobs={"entropy_coef": 0.03, "batch/size": 16.0, "of_an_earlier_program": 1.0})
        assert float(coef) == 0.03
    first, second, third = stub.run.reports
    assert (first.outcome, third.outcome) == ("applied", "applied")
    assert first.settings.knobs == {"batch/size": 16.0, "entropy_coef": 0.02}
    assert second.reason == "knob.entropy_coef must be in [0, 0.1]: got 0.2. Set it back to 0.02."
    (registration,) = stub.run.registrations
    assert [(each.name, each.unit, each.kind) for each in registration.knobs or []] == [
        ("entropy_coef", "nats", "number"), ("batch/size", "", "integer"),
    ]  # fmt: skip
    assert registration.later_settings["knob.entropy_coef"] == 0.01
    assert not registration.settings.knobs  # which a server of before could not read


def test_options_and_lr_are_in_the_groups_during_a_step_and_at_no_other_time(
    training: Training, stub: StubServer
) -> None:
    weights = [each for each in training.model.parameters() if each.dim() > 1]
    biases = [each for each in training.model.parameters() if each.dim() < 2]
    groups = [
        {"params": weights, "lr": 0.01},
        {"params": biases, "lr": 0.002, "weight_decay": 0.0},
    ]
    seen: list[list[tuple[Any, ...]]] = []

    def look() -> list[tuple[Any, ...]]:
        return [tuple(group[name] for name in ("lr", "weight_decay", "betas")) for group in optimizer.param_groups]

    class Seen(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            seen.append(look())
            return super().step(closure)

    optimizer = training.optimizer = Seen(groups, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with attach(training, stub) as agent:
        knobs = agent.optimizer_knobs(training.optimizer, "betas", weight_decay=(0, 0.3))
        assert list(knobs) == ["beta1", "beta2", "weight_decay"]
        assert {each.value for each in knobs.values()} == {None}
        training.step()
        assert seen[-1] == look() == [(0.01, 0.1, (0.9, 0.999)), (0.002, 0.0, (0.9, 0.999))]
        values = {"beta1": None, "beta2": 0.95, "weight_decay": 0.2}
        turned(training, stub, agent, knobs=values, lr=0.5, lr_scale=0.1)
        assert seen[-1] == [(pytest.approx(0.05), 0.2, (0.9, 0.95)), (pytest.approx(0.01), 0.0, (0.9, 0.95))]
        assert look() == [(0.01, 0.1, (0.9, 0.999)), (0.002, 0.0, (0.9, 0.999))]
        schedule.step()  # it goes on, unseen
        training.step()
        assert seen[-1] == [(pytest.approx(0.05), 0.2, (0.9, 0.95)), (pytest.approx(0.01), 0.0, (0.9, 0.95))]
        assert training.optimizer.state_dict()["param_groups"][0]["lr"] == pytest.approx(0.009)
        turned(training, stub, agent, knobs=dict.fromkeys(values), lr=None, lr_scale=1.0)
        assert (
            seen[-1]
            == look()
            == [(pytest.approx(0.009), 0.1, (0.9, 0.999)), (pytest.approx(0.0018), 0.0, (0.9, 0.999))]
        )


def test_lr_takes_the_place_of_a_rate_of_zero_in_the_proportion_of_the_schedules(
    training: Training, stub: StubServer
) -> None:
    first, *rest = training.model.parameters()
    training.optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.01}])
    schedule = torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda step: 1.0 if step < 1 else 0.0)
    with attach(training, stub) as agent:
        training.step()
        schedule.step()
        bias = rest[0].detach().clone()
        training.step()
        assert torch.equal(rest[0], bias)  # the rates are zero
        stub.wait_for(lambda: stub.runs)
        turned(training, stub, agent, lr=1.0)
        assert not torch.equal(rest[0], bias)
        assert [group["lr"] for group in training.optimizer.param_groups] == [0.0, 0.0]


@pytest.mark.parametrize("declared_first", [True, False])
def test_a_checkpoint_has_the_knobs_and_an_old_one_is_read(
    training: Training, stub: StubServer, make_training: type[Training], declared_first: bool
) -> None:
    with attach(training, stub, detail_every=5) as agent:
        agent.knob("coef", 0.01, low=0, high=0.1)
        turned(training, stub, agent, knobs={"coef": 0.05}, lr=0.3, detail_every=7)
        state = agent.state_dict()
    assert "knobs" not in state["settings"]  # versions of before read these
    other = make_training()
    again = steadynorm.attach(other.model, other.optimizer, server="", detail_every=3)
    if declared_first:
        coef = again.knob("coef", 0.01, low=0, high=0.1)
        narrow = again.knob("narrow", 1, low=0, high=2)
        again.load_state_dict(state)
    else:
        again.load_state_dict(state)
        coef = again.knob("coef", 0.01, low=0, high=0.1)
        narrow = again.knob("narrow", 1, low=0, high=2)
    assert (coef.value, narrow.value) == (0.05, 1.0)
    assert (again.settings.lr, again.settings.detail_every) == (0.3, 7)
    assert again.settings.knobs == {"coef": 0.05, "narrow": 1.0}
    old = {name: value for name, value in state.items() if name != "later_settings"}
    third = make_training()
    oldest = steadynorm.attach(third.model, third.optimizer, server="", detail_every=3)
    oldest.load_state_dict(old)
    assert (oldest.settings.lr, oldest.settings.detail_every) == (None, 3)
    again.close()
    oldest.close()


def test_with_a_server_of_before_knobs_are_constants_and_that_is_said_once(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    stub.max_knobs = 0
    with attach(training, stub, detail_every=4, allow=["gamma2", "lr", "knob.*"]) as agent:
        coef = agent.knob("coef", 0.01, low=0, high=0.1)
        turned(training, stub, agent, gamma2=0.9)
        assert (agent.settings.gamma2, coef.value, agent.settings.detail_every) == (0.9, 0.01, 4)
        agent.flush()
    later = {"lr", "detail_every", "knobs"}
    (sent,) = [json.loads(body) for method, path, body, _ in stub.requests if path == "/runs"]
    assert not later & sent["settings"].keys()
    assert sent["allow"] == ["gamma2"]
    assert all(not later & json.loads(encode_json(each.settings)).keys() for each in stub.run.reports)
    assert caplog.text.count("is too old for knobs") == 1


def test_what_allow_leaves_out_is_never_applied(training: Training, stub: StubServer) -> None:
    with attach(training, stub, allow=["knob.coef"]) as agent:
        coef, other = (agent.knob(name, 0.5, low=0, high=1) for name in ("coef", "other"))
        turned(training, stub, agent, knobs={"coef": 0.6, "other": 0.7})
        assert (coef.value, other.value) == (0.5, 0.5)
        assert "knob.other=0.7 (it is 0.5)" in stub.run.reports[-1].reason
        turned(training, stub, agent, knobs={"coef": 0.6, "other": 0.5})
        assert coef.value == 0.6


def test_detail_every_is_changed_at_a_step(training: Training, stub: StubServer) -> None:
    with attach(training, stub, detail_every=1000) as agent:
        turned(training, stub, agent, detail_every=2)
        since = stub.run.reports[-1].step
        for _ in range(10):
            training.step()
        assert agent.flush()
    rows, due = set(stub.run.row_steps), range(since, agent.step + 1)
    assert rows == {1} | {step for step in due if step % 2 == 0}


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    (("a b", 1), {}, ValueError, "the first of them a letter or _: got 'a b'"),
    (("", 1), {}, ValueError, "must be 1 to 64"),
    ((7, 1), {}, ValueError, "must be a string: got int"),
    (("k", 2), {}, ValueError, "its default must be in [0, 1]: got 2. Widen the range."),
    (("k", "0.5"), {}, TypeError, "default must be a number: got str"),
    (("k", True), {}, TypeError, "default must be a number: got bool"),
    (("k", float("nan")), {}, ValueError, "default must be a finite number"),
    (("k", 0.5), {"integer": True}, ValueError, "must be a whole number"),
    (("k", 0.5), {"low": 2}, ValueError, "low must be less than high"),
    (("k", 0.5), {"unit": "x" * 41}, ValueError, "unit must be at most 40"),
    (("taken", 0.5), {}, ValueError, "each knob must have a name of its own: got taken twice"),
]


def test_a_wrong_declaration_says_what_to_do(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with steadynorm.attach(training.model, training.optimizer, server="") as agent:
        agent.knob("taken", 0.5, low=0, high=1)
        for given, more, kind, said in WRONG:
            with pytest.raises(kind) as refused:
                agent.knob(*given, **{"low": 0, "high": 1, **more})
            assert said in str(refused.value)
        for options, ranges, said in (
            (("lr",), {}, "lr is a setting of every run"),
            (("warmth",), {}, "warmth must be given with its range"),
            ((), {"warmth": (0, 1)}, "It has betas, eps, weight_decay."),
            ((), {"weight_decay": (0.5, 1)}, "its default must be in [0.5, 1]"),
        ):
            with pytest.raises(ValueError, match=said.replace("[", r"\[")):
                agent.optimizer_knobs(training.optimizer, *options, **ranges)
        other = torch.optim.SGD(training.model.parameters(), lr=1.0)
        with pytest.raises(ValueError, match="one that this agent is attached to: got another SGD"):
            agent.optimizer_knobs(other, "weight_decay")
        for number in range(63):
            agent.knob(f"k{number}", 0.5, low=0, high=1)
        with pytest.raises(ValueError, match="a run has at most 64 knobs"):
            agent.knob("one_more", 0.5, low=0, high=1)
        training.step()
        with pytest.raises(RuntimeError, match="must be declared before the first step: 1 were taken"):
            agent.knob("late", 0.5, low=0, high=1)
    with pytest.raises(ValueError, match=r"allow must name settings: got 'knob.a b'"):
        steadynorm.attach(training.model, training.optimizer, server="", allow=["knob.a b"])
