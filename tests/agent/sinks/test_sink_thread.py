"""Sinks of one's own: what they are given, and that one which hangs or raises costs nothing but its own rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch

import steadynorm
from steadynorm.sinks import RunInfo, SinkEvent
from steadynorm.sinks import thread as thread_module

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

Until = Callable[[Callable[[], object]], None]


class Collected:
    """A sink of one's own that has all of the optional methods."""

    def __init__(self) -> None:
        self.run: RunInfo | None = None
        self.rows: dict[int, dict[str, float]] = {}
        self.events: list[SinkEvent] = []
        self.state = ""
        self.threads: set[str] = set()

    def open(self, run: RunInfo) -> None:
        self.run = run

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.rows.setdefault(step, {}).update(scalars)
        self.threads.add(threading.current_thread().name)

    def event(self, event: SinkEvent) -> None:
        self.events.append(event)

    def close(self, state: str) -> None:
        self.state = state


class Raising:
    """A sink whose service is gone."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        raise ConnectionError("the service is gone")


class Hanging:
    """A sink that answers nothing until it is released."""

    def __init__(self) -> None:
        self.entered, self.released = threading.Event(), threading.Event()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self.entered.set()
        self.released.wait(60)


def test_an_own_sink_has_the_numbers_that_the_server_has(training: Training, stub: StubServer) -> None:
    sink = Collected()
    with steadynorm.attach(
        training.model, training.optimizer, server=stub.url, run="own", config={"lr": 0.1}, sinks=[sink]
    ) as agent:
        for step in range(1, 31):
            agent.log(loss=training.step(), entropy=step / 3)
        agent.note("new data from here on")
        assert agent.flush()
        stub.change(gamma2=0.99)
        stub.wait_for(lambda: (training.step(), stub.run.reports)[1])
    sent = {name: dict(zip(stub.run.steps, stub.run.column(name), strict=True)) for name in ("raw_norm", "loss")}
    for step, row in sink.rows.items():
        assert row["raw_norm"] == sent["raw_norm"][step]
        assert row.get("loss", sent["loss"][step]) is sent["loss"][step] or row["loss"] == sent["loss"][step]
    assert set(sink.rows) == set(stub.run.steps)
    assert [sink.rows[step]["entropy"] for step in range(1, 31)] == [step / 3 for step in range(1, 31)]
    assert sink.run is not None
    assert (sink.run.name, sink.run.run_id, sink.run.config) == ("own", agent.run_id, {"lr": 0.1})
    assert sink.run.url == agent.url
    assert "command" in sink.run.environment
    assert sink.events[0].message == "new data from here on"
    assert "gamma2 0.999 → 0.99" in sink.events[1].message
    assert sink.state == "finished"
    assert sink.threads == {"steadynorm-sink-Collected"}
    (state,) = agent.health().sinks
    assert state.dropped == {}
    assert state.written == len(sink.rows) + len(sink.events)


def test_without_a_server_a_sink_has_every_step_and_the_incident(training: Training) -> None:
    sink = Collected()
    with steadynorm.attach(training.model, training.optimizer, server="", sinks=[sink]) as agent:
        for step in range(1, 41):
            loss = training.step(spike=1e4 if step == 35 else 1.0)
            agent.log(loss=loss, seldom=torch.tensor(step) if step % 10 == 0 else None)
    assert list(sink.rows) == list(range(1, 41))
    assert {step: row["seldom"] for step, row in sink.rows.items() if "seldom" in row} == {
        10: 10,
        20: 20,
        30: 30,
        40: 40,
    }
    assert sink.run is not None
    assert sink.run.url is None
    (spike,) = sink.events
    assert (spike.kind, spike.step) == ("spike", 35)
    assert "the gradient of " in spike.message
    assert sink.state == "finished"


def test_a_sink_that_raises_is_told_once_and_counted_and_the_others_go_on(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    good = Collected()
    with steadynorm.attach(training.model, training.optimizer, server=stub.url, sinks=[Raising(), good]) as agent:
        for _ in range(5):
            training.step()
        assert agent.flush()
        until(lambda: agent.health().findings)
        training.step()
        assert agent.flush()
    bad = agent.health().sinks[0]
    assert (bad.written, bad.dropped) == (0, {"error": 6})
    assert "ConnectionError: the service is gone" in str(agent.health())
    assert len(good.rows) == 6
    assert agent.counters.sinks_dropped == 6
    told = [record for record in caplog.records if "sink Raising loses what it is given" in record.message]
    assert len(told) == 1
    assert any("sink Raising" in note.message for batch in stub.run.batches for note in batch.notes)
    assert max(batch.counters.sinks_dropped for batch in stub.run.batches) >= 1


def test_a_sink_that_hangs_keeps_the_newest_rows_and_no_step_waits(
    training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_module, "MAX_VALUES", 100)
    monkeypatch.setattr(thread_module, "HUNG_S", 0.0)
    monkeypatch.setattr("steadynorm.sink_feed.CLOSE_S", 0.05)
    sink = Hanging()
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, sinks=[sink])
    training.step()
    assert agent.flush()
    assert sink.entered.wait(20)
    for _ in range(200):
        training.step()
    assert agent.flush()
    (state,) = agent.health().sinks
    assert state.dropped["queue full"] > 180
    assert state.waiting + state.dropped["queue full"] >= 200
    assert "has not answered" in state.trouble
    agent.close()
    assert stub.run.finish is not None
    assert len(stub.run.steps) == 201
    sink.released.set()


class Leaving(Exception):
    """Of a library that forgot its own arguments."""

    def __str__(self) -> str:
        raise AttributeError("nothing")


@pytest.mark.parametrize("error", [SystemExit(3), Leaving()])
def test_a_sink_that_raises_anything_is_counted_and_closing_does_not_wait_for_it(
    training: Training, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    class Odd:
        def write(self, step: int, scalars: Mapping[str, float]) -> None:
            raise error

    agent = steadynorm.attach(training.model, training.optimizer, server="", sinks=[Odd()])
    for _ in range(3):
        training.step()
    agent.close()
    (state,) = agent.health().sinks
    assert (state.dropped["error"], state.waiting) == (3, 0)
    assert type(error).__name__ in state.trouble
    assert "it goes on for as long as the process runs" not in caplog.text


def test_a_note_reaches_sinks_where_no_server_is_given(training: Training, caplog: pytest.LogCaptureFixture) -> None:
    sink = Collected()
    with steadynorm.attach(training.model, training.optimizer, server="", sinks=[sink]) as agent:
        training.step()
        for number in range(600):
            agent.note(f"note {number}")
    assert sink.events[-1].message == "note 599"
    assert "is dropped" not in caplog.text


def test_what_a_sink_does_to_its_row_is_not_seen_by_the_server_or_another_sink(
    training: Training, stub: StubServer
) -> None:
    class Emptying:
        def write(self, step: int, scalars: dict[str, float]) -> None:
            scalars.clear()

    sink = Collected()
    sinks: list[Any] = [Emptying(), sink]
    with steadynorm.attach(training.model, training.optimizer, server=stub.url, sinks=sinks) as agent:
        for step in range(5):
            training.step()
            assert agent.flush()
            agent.log(late=step)  # its step was sent before: a row of its own
            assert agent.flush()
    assert len(sink.rows) == 5
    assert all("raw_norm" in row and "late" in row for row in sink.rows.values())


def test_an_incident_after_an_older_checkpoint_was_loaded_is_told(training: Training) -> None:
    sink = Collected()
    with steadynorm.attach(training.model, training.optimizer, server="", sinks=[sink]) as agent:
        for _ in range(20):
            training.step()
        state = agent.state_dict()
        for _ in range(180):
            training.step()
        training.step(spike=1e4)
        agent.load_state_dict(state)
        for _ in range(80):
            training.step()
        training.step(spike=1e4)
    assert [(event.kind, event.step) for event in sink.events] == [("spike", 201), ("spike", 101)]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ("wandb", TypeError, r'sinks must be a list: got str. Use sinks=\["wandb"\]'),
        (["comet"], ValueError, "must be among wandb, tensorboard, mlflow, trackio"),
        ([object()], TypeError, r"an object with write\(step, scalars\)"),
        ([Collected], TypeError, r"an object with write\(step, scalars\)"),
    ],
)
def test_what_is_no_sink_is_refused(training: Training, given: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        steadynorm.attach(training.model, training.optimizer, server="", sinks=given)  # type: ignore[arg-type]


def test_a_tool_that_is_not_installed_says_what_to_install(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(__import__("sys").modules, "trackio", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'steadynorm\[trackio\]'"):
        steadynorm.attach(training.model, training.optimizer, server="", sinks=["trackio"])
