"""Nothing of a training is kept alive by the agent: what the loop drops is freed at once, without the collector."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm.distributed.reductions import ScalarReductions

if TYPE_CHECKING:
    from tests.support.agent import StubServer
    from tests.support.interpreter import Interpreter


@pytest.fixture(autouse=True)
def _without_collector() -> Iterator[None]:
    make()  # the first optimizer of a process loads parts of torch, whose frames stay for the collector
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def make(kind: type[torch.optim.Optimizer] = torch.optim.AdamW) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))
    return model, kind(model.parameters(), lr=0.1)  # type: ignore[call-arg]  # those that are used here have one


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()


def plain(model: torch.nn.Module, optimizer: torch.optim.Optimizer, agent: steadynorm.Agent) -> None:
    step(model, optimizer)


def raising(model: torch.nn.Module, optimizer: torch.optim.Optimizer, agent: steadynorm.Agent) -> None:
    def closure() -> float:
        raise ValueError

    step(model, optimizer)
    with suppress(ValueError):
        optimizer.step(closure)


def with_all_calls(model: torch.nn.Module, optimizer: torch.optim.Optimizer, agent: steadynorm.Agent) -> None:
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    agent.on_checkpoint(print)
    model(torch.ones(1, 4)).sum().backward()
    agent.before_clip(optimizer)
    optimizer.step()
    scheduler.step()
    agent.log(loss=torch.ones(()), batch_id="b")
    agent.load_state_dict(agent.state_dict())
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    step(model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    agent.statistics()


LOOPS: list[Callable[..., None]] = [plain, raising, with_all_calls]


def cell(loop: Callable[..., None], end: str, **options: Any) -> list[weakref.ref[Any]]:
    """A notebook's cell, or a trial of a search: everything is local. Returns what must not survive it."""
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer, **options)
    loop(model, optimizer, agent)
    moments = next(iter(optimizer.state.values()))["exp_avg"]
    getattr(agent, end, lambda: None)()
    return [weakref.ref(each) for each in (model, model[0].weight, optimizer, moments, agent)]  # type: ignore[index]


@pytest.mark.parametrize("end", ["nothing", "close", "detach"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("served", [False, True])
def test_model_and_moments_are_freed_with_the_last_variable(
    stub: StubServer, loop: Callable[..., None], end: str, served: bool
) -> None:
    dropped = cell(loop, end, server=stub.url) if served else cell(loop, end)
    names = ("model", "weight", "optimizer", "moments", "agent")
    assert [name for name, each in zip(names, dropped, strict=True) if each() is not None] == []


@pytest.mark.parametrize("end", ["nothing", "close"])
def test_an_agent_in_a_variable_keeps_nothing_alive_and_knows_its_numbers(end: str) -> None:
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer)
    step(model, optimizer)
    statistics, state = agent.statistics(), agent.state_dict()
    getattr(agent, end, lambda: None)()
    weight, dropped = weakref.ref(model[0].weight), weakref.ref(optimizer)  # type: ignore[index]  # a Sequential
    del model, optimizer  # as in a cell that is run again, and fails before it attaches again
    assert weight() is None
    assert dropped() is None
    assert agent.closed
    assert agent.statistics() == statistics
    assert agent.state_dict()["step"] == state["step"] == 1
    agent.before_clip()
    agent.log(loss=1.0)
    agent.close()


def test_an_agent_whose_optimizer_was_dropped_says_so_where_a_loop_still_logs(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer)
    step(model, optimizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # a cell that was run again, without attach()
    assert caplog.text.count("was freed") == 0
    for _ in range(3):
        step(model, optimizer)
        agent.log(loss=1.0)
    assert caplog.text.count("the optimizer that this agent was attached to was freed") == 1
    assert [finding.name for finding in agent.health().findings] == ["no_optimizer"]


def test_a_run_whose_optimizer_was_dropped_ends_and_says_what_is_not_known(stub: StubServer) -> None:
    model, optimizer = make()
    agent = steadynorm.attach(model, optimizer, server=stub.url)
    step(model, optimizer)
    step(model, optimizer)
    del model, optimizer
    assert agent.closed
    stub.wait_for(lambda: stub.runs and stub.run.finish)
    assert stub.run.finish is not None
    assert stub.run.finish.state == "finished"
    assert "the optimizer was freed without agent.close()" in stub.run.finish.reason
    assert stub.run.steps == [1, 2]


def locks_below(root: object) -> dict[int, Any]:
    """All locks, by their ids, that the agent's objects below this one hold, those of its events included."""
    found: dict[int, Any] = {}
    seen, left = set(), [root]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, threading.Event | threading.Condition):
            left += [value for name, value in vars(each).items() if name in ("_cond", "_lock")]
        elif type(each) is type(threading.Lock()):
            found[id(each)] = each
        elif isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list | tuple | set | partial):
            left += [*each.args, each.func] if isinstance(each, partial) else each
        elif isinstance(each, MethodType):
            left.append(each.__self__)
        elif type(each).__module__.startswith("steadynorm."):
            left += vars(each).values() if hasattr(each, "__dict__") else ()
    return found


def test_freeing_an_optimizer_takes_no_lock(stub: StubServer, caplog: pytest.LogCaptureFixture) -> None:
    """The garbage collector may do it in any thread, amid what holds that very lock: it would be held for ever."""
    model, optimizer = make()
    sink = SimpleNamespace(write=lambda step, scalars: None)
    agent = steadynorm.attach(model, optimizer, server=stub.url, sinks=[sink], recovery=steadynorm.Recovery())
    told = (agent._boundary, agent._recorder, agent._check.report)
    agent._reductions = ScalarReductions((0, 1), 20, "name", *told)
    step(model, optimizer)
    kept: list[object] = [model, optimizer]
    del model, optimizer
    agent.describe("x", reduce="mean")
    agent.log(x=1.0)
    locks = [*locks_below(agent).values()]
    assert len(locks) > 10
    handlers = {*logging.getLogger("steadynorm").handlers, *logging.getLogger().handlers}
    freeing = threading.Thread(target=kept.clear, daemon=True)
    with ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        for handler in handlers:
            handler.acquire()
            held.callback(handler.release)
        freeing.start()
        freeing.join(20)
        assert agent.closed
        assert not freeing.is_alive()
    stub.wait_for(lambda: stub.runs and stub.run.finish)
    assert "the optimizers were freed: x can no longer be reduced over ranks" in caplog.text
    assert [each.names for batch in stub.run.batches for each in batch.logged] == [("x",)]


def test_one_of_two_optimizers_that_is_dropped_leaves_the_other_ones_agent(stub: StubServer) -> None:
    model, first = make()
    other, second = make()
    agent = steadynorm.attach(torch.nn.ModuleList([model, other]), [first, second])
    for _ in range(2):
        step(model, first)
        step(other, second)
    weight = weakref.ref(first)
    del first
    assert weight() is None
    assert not agent.closed
    step(other, second)
    agent.before_clip(second)
    step(other, second)
    assert agent.step == 4
    assert agent.counters.errors == 0
    agent.close()


IN_A_FUNCTION = """
import sys, torch, steadynorm

def main():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = steadynorm.attach(model, optimizer, server=sys.argv[1], run="function")
    for _ in range(50):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

main()
"""


@pytest.mark.slow
def test_a_program_that_ends_right_after_its_training_function_has_sent_all(
    stub: StubServer, python: Interpreter
) -> None:
    done = python.run("-c", IN_A_FUNCTION, stub.url)
    assert done.returncode == 0, done.stderr
    assert stub.run.steps == list(range(1, 51))
    assert stub.run.finish is not None
