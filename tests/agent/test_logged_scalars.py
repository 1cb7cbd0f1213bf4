"""`agent.log(entropy=h)`: numbers under names of the loop's own on their way to the server."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.support.fake_cuda import FakeCuda
from torch.distributed.tensor import Partial

import steadynorm
from steadynorm.recording import scalars as scalars_module
from steadynorm.recording.scalars import MAX_ENTRIES, ScalarLog
from steadynorm_contract.scalars import MAX_SCALAR_GROUPS, MAX_SCALARS, ScalarDescription
from steadynorm_contract.telemetry import floats_from_bytes

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training


def points(stub: StubServer, name: str) -> list[tuple[int, float]]:
    """(step, value) of what was sent under `name`, in the order of the steps."""
    found = []
    for batch in stub.run.batches:
        for group in batch.logged:
            if name in group.names:
                values = floats_from_bytes(group.data)[group.names.index(name) :: len(group.names)]
                found += [(step, value) for step, value in zip(group.steps, values, strict=True) if value == value]
    return sorted(found)


def test_scalars_arrive_with_their_steps_often_and_seldom(training: Training, stub: StubServer) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        agent.describe("tok_per_s", unit="tokens/s")
        for step in range(1, 41):
            loss = training.step()
            agent.log(loss=loss, entropy=step / 2, tok_per_s=torch.tensor(step, dtype=torch.bfloat16))
            if step % 20 == 0:
                agent.log({"eval/loss": loss.double()})
        assert agent.flush()
        counters = agent.counters
    assert points(stub, "entropy") == [(step, step / 2) for step in range(1, 41)]
    assert points(stub, "tok_per_s") == [(step, step) for step in range(1, 41)]
    losses = stub.run.column("loss")
    assert points(stub, "eval/loss") == [(20, losses[19]), (40, losses[39])]
    assert [batch.described for batch in stub.run.batches if batch.described] == [
        {"tok_per_s": ScalarDescription("tokens/s")}
    ]
    assert counters.produced == counters.acknowledged
    assert counters.produced == sum(
        len(part.steps)
        for batch in stub.run.batches
        for part in (batch.scalars, batch.rows, *batch.logged)
        if part is not None
    )


def test_a_loop_that_logs_before_the_step_has_its_numbers_at_that_step(training: Training, stub: StubServer) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        for step in range(1, 6):
            agent.log(loss=10 * step, entropy=step)
            if step == 3:
                agent.log(loss=10 * step, seldom=step)  # with the loss, which is the coming step's
            training.step()
    assert stub.run.column("loss") == [10, 20, 30, 40, 50]
    assert points(stub, "entropy") == [(step, step) for step in range(1, 6)]
    assert points(stub, "seldom") == [(3, 3)]


def test_what_was_logged_for_a_step_that_a_checkpoint_took_back_is_not_the_next_ones(
    training: Training, stub: StubServer
) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        for step in range(1, 6):
            agent.log({"entropy": step, "on_device": torch.tensor(float(step))}, loss=10 * step, step=100 + step)
            training.step()
            if step == 3:
                state = agent.state_dict()
        agent.log({"entropy": 666, "on_device": 666}, loss=666, step=666)
        agent.load_state_dict(state)
        training.step()
        agent.log({"entropy": 44}, loss=440, step=104)
        training.step()
    assert stub.run.steps == [101, 102, 103, 104, 105, 104, 105]
    assert [*stub.run.column("loss")][:6] == [10, 20, 30, 40, 50, 440]
    assert points(stub, "entropy") == [(101, 1), (102, 2), (103, 3), (104, 4), (104, 44), (105, 5)]
    assert points(stub, "on_device") == [(100 + step, step) for step in range(1, 6)]


def test_what_is_logged_before_the_first_step_stays_with_it_where_a_checkpoint_is_loaded(
    training: Training, stub: StubServer
) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        agent.log(seldom=7, loss=70)
        agent.load_state_dict(agent.state_dict())
        training.step()
    assert points(stub, "seldom") == [(1, 7)]
    assert stub.run.column("loss") == [70]


def test_the_loops_own_numbers_of_steps_are_those_of_its_scalars(training: Training, stub: StubServer) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        for step in range(3):
            training.step()
            agent.log(step=1000 + step, entropy=step)
    assert points(stub, "entropy") == [(1000, 0), (1001, 1), (1002, 2)]


def test_what_cannot_be_recorded_is_left_out_with_one_warning_each(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    odd: dict[str, Any] = {
        "text": "1.5",
        "two": torch.ones(2),
        "complex": torch.tensor(1j),
        "raw_norm": 1.0,
        "raw_norm/x": 1.0,
        " spaced": 1.0,
        "line\nbreak": 1.0,
        "x" * 101: 1.0,
        "nothing": None,
    }
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        for _ in range(3):
            training.step()
            agent.log(entropy=1.0, bad=math.nan, **odd)
        for at in range(MAX_SCALARS):
            agent.log(**{f"many/{at}": at})
    assert points(stub, "entropy") == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert points(stub, "bad") == [(1, math.inf), (2, math.inf), (3, math.inf)]  # as it travels: logged, not finite
    assert points(stub, f"many/{MAX_SCALARS - 3}") == [(3, MAX_SCALARS - 3)]
    assert points(stub, f"many/{MAX_SCALARS - 2}") == []
    messages = [record.getMessage() for record in caplog.records]
    for what in (
        "text must be a number or a tensor of one element: got str. Use float().",
        "two must be one number: got shape (2,). Use .mean().",
        "complex must be a real number",
        "must not have a built-in name: got 'raw_norm'",
        "must not begin like a series of parameters: got 'raw_norm/x'",
        "none of them a space at its ends: got ' spaced'",
        r"printable characters, with none of them a space at its ends: got 'line\nbreak'",
        "'bad' was logged as nan at step 1. It is recorded as such.",
        f"at most {MAX_SCALARS} logged scalars: got one more, 'many/{MAX_SCALARS - 2}'",
    ):
        assert sum(what in message for message in messages) == 1, what
    assert not any("nothing" in message for message in messages)


def test_an_older_server_is_sent_none_and_the_log_says_so_once(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    respond = stub.serve

    def older(target: str, body: bytes) -> Any:
        status, answer, headers = respond(target, body)
        return status, answer.replace(b'"max_scalars":256', b'"max_scalars":0'), headers

    stub.serve = older  # type: ignore[method-assign]
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for _ in range(2):
        agent.log(loss=training.step(), entropy=1.0)
        agent.flush()
    agent.close()
    assert points(stub, "entropy") == []
    assert stub.run.steps == [1, 2]
    assert agent.counters.dropped == 2
    assert caplog.text.count("is too old to store scalars other than the loss") == 1


def test_very_different_names_go_out_in_batches_that_a_server_takes(training: Training, stub: StubServer) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        training.step()
        for at in range(3 * MAX_SCALAR_GROUPS):  # pairs, each another set of names
            agent.log(**{f"a/{at % 200}": at, f"b/{at % 47}": at})
        training.step()
    assert max(len(batch.logged) for batch in stub.run.batches) <= MAX_SCALAR_GROUPS
    sent = {value for batch in stub.run.batches for group in batch.logged for value in floats_from_bytes(group.data)}
    assert 3 * MAX_SCALAR_GROUPS - 1 in sent


def test_cuda_tensors_are_copied_once_for_all_without_a_wait_and_read_without_the_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, log = FakeCuda(monkeypatch), ScalarLog()
    for step in (1, 2):
        values = {f"n{at}": cuda.put(torch.tensor(float(10 * step + at))) for at in range(10)}
        log.put(step, step, {"host": float(step), **values})
    copies = cuda.pending
    assert copies == 4  # of each call, the values and its number
    assert cuda.waits == []
    assert log.waiting(3) == 1  # nothing has landed
    cuda.run(2)
    calls = len(cuda.calls)
    assert log.waiting(3) == 2
    (first,) = log.take(2)
    assert first.values == {"host": 1.0, **{f"n{at}": 10.0 + at for at in range(10)}}
    cuda.run()
    (second,) = log.take(3)
    assert second.values["n9"] == 29.0
    assert len(cuda.calls) == calls
    assert cuda.waits == []


def test_a_reader_that_is_far_behind_costs_values_and_mixes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scalars_module, "_CELLS", 16)
    cuda, log = FakeCuda(monkeypatch), ScalarLog()
    for step in range(1, 11):
        log.put(step, step, {"a": cuda.put(torch.tensor(float(step))), "b": cuda.put(torch.tensor(-float(step)))})
    cuda.run()
    found = log.take(100)
    assert [(each.step, each.values) for each in found] == [
        (step, {"a": float(step), "b": -float(step)}) for step in range(3, 11)
    ]
    assert log.lost == 2
    for step in range(11, MAX_ENTRIES + 12):
        log.put(step, step, {"a": 1.0})
    assert log.lost == 3


class Unreadable:
    """A number whose own code fails."""

    def __float__(self) -> float:
        raise RuntimeError("not computed yet")


def test_a_value_whose_own_code_fails_is_left_out_and_the_agent_goes_on(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        agent.log(loss=training.step(), odd=Unreadable(), good=2.0)  # type: ignore[arg-type]  # that is the point
    assert agent.counters.errors == 0
    assert [value for _, value in points(stub, "good")] == [2.0]
    assert "'odd': it cannot be read (RuntimeError: not computed yet)" in caplog.text


def test_a_number_that_float32_cannot_hold_is_recorded_and_told_as_infinite(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture
) -> None:
    with steadynorm.attach(training.model, training.optimizer, server=stub.url) as agent:
        training.step()
        agent.log(loss=1e39, big=1e39)
        training.step()
        agent.log(loss=-(10**400))
    assert [abs(value) for value in stub.run.column("loss")] == [math.inf, math.inf]
    assert stub.run.column("loss_nonfinite") == [1.0, 1.0]
    assert "'big' was logged as 1e+39 at step 1. It is recorded as inf: float32 ends at 3.4e38." in caplog.text


class Parts(torch.Tensor):
    """As a DTensor of which each rank holds a part of the sum."""

    placements = (Partial(),)


def test_what_ranks_hold_in_parts_is_refused_and_said(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    part = torch.tensor(2.0).as_subclass(Parts)
    agent = steadynorm.attach(training.model, training.optimizer, server="", sinks=[Kept()])
    with pytest.raises(ValueError, match=r"parts of a DTensor. Use \.full_tensor\(\) on each rank"):
        agent.log(loss=part)
    agent.log(part=part)
    assert "part must be the same on all ranks" in caplog.text
    agent.close()


class Kept:
    """A sink, for which scalars are recorded without a server."""

    def write(self, step: int, scalars: object) -> None: ...
