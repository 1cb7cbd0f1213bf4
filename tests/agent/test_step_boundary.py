"""Settings from the server: applied at a step boundary, all or nothing, and reported."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

import steadynorm
from steadynorm import step_boundary
from steadynorm_contract.telemetry import NoteKind, RevisionOutcome, RunEnd

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

    from steadynorm.agent import Agent

Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def agent(training: Training, stub: StubServer) -> Agent:
    """Attached, registered, one step done."""
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.runs)
    return agent


def arrived(agent: Agent, revision: int) -> Callable[[], bool]:
    """Whether the background threads have brought that revision."""
    return lambda: agent._mailbox.seen_revision >= revision


def test_a_revision_is_applied_at_the_next_boundary_and_reported(
    agent: Agent, training: Training, stub: StubServer, until: Until
) -> None:
    until(arrived(agent, stub.change(gamma2=0.9, spike_limit=3.0)))
    assert agent.settings.gamma2 == 0.999  # not between boundaries
    training.step()
    assert agent.settings.gamma2 == 0.9
    assert agent.applied_revision == 1
    assert agent.stabilizers[0].settings.gamma2 == 0.9
    assert agent.stabilizers[0].settings.spike_limit == 3.0
    stub.wait_for(lambda: stub.run.reports)
    (report,) = stub.run.reports
    assert (report.revision, report.step, report.outcome) == (1, 2, RevisionOutcome.APPLIED)
    assert report.settings == agent.settings
    agent.close()


def test_a_change_waits_for_the_round_to_end_with_several_optimizers(
    training: Training, stub: StubServer, until: Until
) -> None:
    training.step()  # computes gradients
    parameters = list(training.model.parameters())
    first, second = torch.optim.SGD(parameters[:2], lr=0.1), torch.optim.SGD(parameters[2:], lr=0.1)
    agent = steadynorm.attach(training.model, [first, second], server=stub.url)
    first.step()
    stub.wait_for(lambda: stub.runs)
    until(arrived(agent, stub.change(gamma1=0.5)))
    second.step()  # the same round
    assert [stabilizer.settings.gamma1 for stabilizer in agent.stabilizers] == [0.6, 0.6]
    second.step()  # a new one
    assert [stabilizer.settings.gamma1 for stabilizer in agent.stabilizers] == [0.5, 0.5]
    stub.wait_for(lambda: stub.run.reports)
    assert stub.run.reports[0].step == agent.step == 2
    agent.close()


def test_the_latest_revision_wins_and_older_news_is_ignored(
    agent: Agent, training: Training, stub: StubServer, until: Until
) -> None:
    stub.change(gamma1=0.1)
    until(arrived(agent, stub.change(gamma1=0.2)))
    training.step()
    assert agent.settings.gamma1 == 0.2
    with stub.changed:
        stub.run.revision = 1
    agent.flush()
    training.step()
    assert (agent.settings.gamma1, agent.applied_revision) == (0.2, 2)
    agent.close()


def test_a_change_outside_allow_is_rejected_whole(training: Training, stub: StubServer, until: Until) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, allow=("gamma1", "mode"))
    training.step()
    stub.wait_for(lambda: stub.runs)
    assert stub.run.registrations[0].allow == ["gamma1", "mode"]
    before = agent.settings
    until(arrived(agent, stub.change(gamma1=0.5, lr_scale=0.1)))
    training.step()
    assert agent.settings == before
    stub.wait_for(lambda: stub.run.reports)
    assert stub.run.reports[0].outcome is RevisionOutcome.REJECTED
    assert stub.run.reports[0].settings == before
    assert "lr_scale=0.1 (it is 1.0)" in stub.run.reports[0].reason
    until(arrived(agent, stub.change(lr_scale=1.0)))  # put back: what is left is allowed
    training.step()
    assert agent.settings.gamma1 == 0.5
    assert agent.applied_revision == 2
    agent.close()


def test_numbers_that_a_store_gives_again_after_it_lost_its_data_are_news(
    training: Training, stub: StubServer, until: Until
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, allow=("gamma1",))
    training.step()
    stub.wait_for(lambda: stub.runs)
    until(arrived(agent, stub.change(gamma1=0.5)))
    training.step()
    stub.change(lr_scale=0.1)
    until(arrived(agent, stub.change(lr_scale=0.2)))
    training.step()
    stub.wait_for(lambda: len(stub.run.reports) >= 2)
    assert (agent.applied_revision, agent._mailbox.seen_revision) == (1, 3)
    with stub.changed:
        stub.runs.clear()
    training.step()
    until(lambda: agent.flush(1))  # the first time it hears that the run is lost
    assert stub.run.revision == 1  # as the agent told it
    assert stub.change(gamma1=0.4) == 2
    training.step()
    assert agent.flush(20)
    until(lambda: agent._mailbox.seen_revision == 2)
    training.step()
    assert (agent.settings.gamma1, agent.applied_revision) == (0.4, 2)
    agent.close()


@pytest.mark.parametrize(
    ("changes", "said"), [({"gamma2": 1.0}, "gamma2 must be in"), ({"shiny": True}, "shiny"), ({"mode": 3}, "mode")]
)
def test_settings_that_break_a_rule_here_are_rejected_whatever_the_server_thinks(
    agent: Agent, training: Training, stub: StubServer, until: Until, changes: dict[str, object], said: str
) -> None:
    before = agent.settings
    until(arrived(agent, stub.change(gamma1=0.5, **changes)))
    training.step()
    assert agent.settings == before
    stub.wait_for(lambda: stub.run.reports)
    assert stub.run.reports[0].outcome is RevisionOutcome.REJECTED
    assert said in stub.run.reports[0].reason
    assert agent.counters.errors == 0
    agent.close()
    assert stub.run.steps == [1, 2]  # telemetry goes on beside it


def test_raising_reset_generation_drops_the_statistics_once(
    agent: Agent, training: Training, stub: StubServer, until: Until
) -> None:
    for _ in range(5):
        training.step()
    until(arrived(agent, stub.change(reset_generation=1)))
    training.step()
    weights = agent.stabilizers[0].state_dict()["parameters"]["0.weight"]
    assert weights[1].item() == pytest.approx(0.4)  # of one sample at gamma1 = 0.6
    until(arrived(agent, stub.change(gamma2=0.9)))
    training.step()
    weights = agent.stabilizers[0].state_dict()["parameters"]["0.weight"]
    assert weights[1].item() > 0.5
    agent.close()


def test_a_checkpoint_is_asked_for_between_steps_and_may_fail(
    agent: Agent, training: Training, stub: StubServer, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[int, int]] = []

    @agent.on_checkpoint
    def save(step: int) -> None:
        calls.append((step, agent.state_dict()["step"]))
        raise OSError("disk full")

    until(arrived(agent, stub.change(checkpoint_generation=1)))
    training.step()
    training.step()
    assert calls == [(1, 1)]
    assert agent.callback_errors == 1
    assert agent.counters.errors == 0
    assert "disk full" in caplog.text
    assert agent.settings.checkpoint_generation == 1
    agent.close()
    told = [note for batch in stub.run.batches for note in batch.notes if note.kind is NoteKind.FINDING]
    assert [(note.step, note.message.partition(". ")[0]) for note in told] == [
        (1, "the checkpoint that was asked for failed: OSError: disk full")
    ]


def test_a_paused_run_waits_at_the_boundary_until_it_may_go_on(
    agent: Agent, training: Training, stub: StubServer, until: Until
) -> None:
    until(arrived(agent, stub.change(paused=True)))
    loop = threading.Thread(target=training.step, daemon=True)
    loop.start()
    stub.wait_for(lambda: stub.run.reports)  # it says so while it waits
    assert loop.is_alive()
    assert agent.step == 1
    stub.change(gamma1=0.5)  # still paused: applied, and waiting on
    stub.wait_for(lambda: len(stub.run.reports) == 2)
    assert loop.is_alive()
    stub.change(paused=False)
    loop.join(20)
    assert not loop.is_alive()
    assert agent.step == 2
    assert [report.step for report in stub.run.reports] == [2, 2] or len(stub.run.reports) == 3
    agent.close()


def test_closing_releases_a_paused_run(agent: Agent, training: Training, stub: StubServer, until: Until) -> None:
    until(arrived(agent, stub.change(paused=True)))
    loop = threading.Thread(target=training.step, daemon=True)
    loop.start()
    stub.wait_for(lambda: stub.run.reports)
    agent.close()
    loop.join(20)
    assert not loop.is_alive()


def test_stop_tells_the_loop_even_while_paused_and_ends_the_run_as_stopped(
    agent: Agent, training: Training, stub: StubServer, until: Until
) -> None:
    until(arrived(agent, stub.change(paused=True, stop=True)))
    asked = [agent.should_stop]
    training.step()
    asked.append(agent.should_stop)
    assert asked == [False, True]
    agent.close()
    assert stub.run.finish is not None
    assert stub.run.finish.state is RunEnd.STOPPED


@pytest.mark.parametrize("reads", [True, False])
def test_a_loop_that_does_not_read_the_stop_is_told(
    training: Training, stub: StubServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr(step_boundary, "STEPS_UNTIL_STOP", 20)
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.runs)
    stub.change(stop=True)
    while agent.applied_revision == 0:
        training.step()
    for _ in range(30):
        training.step()
        assert not reads or agent.should_stop
    agent.close()
    notes = [note.message for batch in stub.run.batches for note in batch.notes if note.kind == "finding"]
    said = [text for text in notes if "has not read agent.should_stop since" in text]
    assert len(said) == (not reads)
    assert caplog.text.count("has not read agent.should_stop") == (not reads)
    assert stub.run.finish is not None
    assert stub.run.finish.state is (RunEnd.STOPPED if reads else RunEnd.FINISHED), "of itself, where it never asked"


@pytest.mark.parametrize("reads", [True, False])
def test_a_stop_that_no_step_has_looked_for_is_applied_with_that_remark(
    agent: Agent, training: Training, stub: StubServer, until: Until, reads: bool
) -> None:
    assert not reads or not agent.should_stop
    for stop in (True, False, True):
        until(arrived(agent, stub.change(stop=stop)))
        training.step()
    stub.wait_for(lambda: len(stub.run.reports) == 3)
    said = ["has not read agent.should_stop in any step so far" in report.reason for report in stub.run.reports]
    assert said == [not reads, False, not reads]
    assert {report.outcome for report in stub.run.reports} == {RevisionOutcome.APPLIED}
    agent.close()


def test_settings_arrive_with_telemetry_answers_too(
    training: Training, stub: StubServer, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    stub.fault = lambda method, path, body: (500, b"", {}) if path.endswith("/settings") else None
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    stub.wait_for(lambda: stub.runs)
    revision = stub.change(gamma1=0.5)
    training.step()
    training.step()
    agent.flush()
    until(arrived(agent, revision))
    training.step()
    assert agent.settings.gamma1 == 0.5
    agent.close()


@pytest.mark.parametrize("leaves", [lambda agent: agent.close(), lambda agent: sys.exit(3)], ids=["close", "exit"])
def test_a_revision_is_reported_before_the_checkpoint_that_came_with_it(
    agent: Agent, training: Training, stub: StubServer, until: Until, leaves: Callable[[Agent], None]
) -> None:
    agent.on_checkpoint(lambda step: leaves(agent))
    training.step()
    revision = arrived(agent, stub.change(checkpoint_generation=1, gamma1=0.5))
    until(revision)
    with contextlib.suppress(SystemExit):
        training.step()
    agent.close()
    assert [(each.revision, each.outcome.value) for each in stub.run.reports] == [(1, "applied")]
