"""The agent and the real server, over its embedded store: the whole way there and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

import steadynorm
from steadynorm_contract.client import NotFound
from steadynorm_contract.runs import RevisionState, RunState

if TYPE_CHECKING:
    from tests.support.agent import Training
    from tests.support.local_server import RunningStack

Until = Callable[[Callable[[], object]], None]


def test_a_run_is_changed_live_and_stored_whole(training: Training, stack: RunningStack, until: Until) -> None:
    client = stack.client
    agent = steadynorm.attach(
        training.model, training.optimizer, run="agent and server", server=stack.server, token=stack.token,
        tags={"kind": "test"},
    )  # fmt: skip
    with pytest.raises(NotFound):
        client.run(agent.run_id)  # not before the first step
    for _ in range(20):
        agent.log(loss=training.step())
    assert agent.flush(20)
    detail = client.run(agent.run_id)
    assert detail.state is RunState.RUNNING
    assert detail.step == 20
    assert detail.loss is not None
    assert (detail.parameters, detail.tags) == (4, {"kind": "test"})

    desired = client.change(agent.run_id, {"gamma2": 0.99, "lr_scale": 0.5}, revision=0, reason="a test")
    until(lambda: agent._mailbox.seen_revision == desired.revision)  # by the long-poll: nothing is sent meanwhile
    training.step()
    assert agent.settings.gamma2 == 0.99
    until(lambda: client.run(agent.run_id).applied.revision == desired.revision)
    detail = client.run(agent.run_id)
    assert detail.applied.step == 21
    assert detail.desired.state is RevisionState.APPLIED
    assert client.audit(agent.run_id).entries[0].applied_step == 21

    training.step()
    assert agent.flush(20)
    agent.close()
    detail = client.run(agent.run_id)
    assert detail.state is RunState.FINISHED
    assert detail.counters.steps == 22
    series = client.series(agent.run_id, ["raw_norm", "loss"]).series
    assert sum(series["raw_norm"].count) == 22
    rows = client.parameters(agent.run_id)
    assert [row.name for row in rows.parameters] == agent.stabilizers[0].names
    assert rows.step == 20
    counters = agent.counters
    assert counters.produced == counters.acknowledged == 22 + 3


def test_a_ceiling_set_by_the_owner_is_reported_as_a_rejection(
    training: Training, stack: RunningStack, until: Until
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stack.server, token=stack.token)
    training.step()
    assert agent.flush(20)
    agent._boundary.allow = ("mode",)  # the server refuses what it knows to be forbidden
    stack.client.change(agent.run_id, {"lr_scale": 0.0}, revision=0)
    until(lambda: agent._mailbox.seen_revision == 1)
    training.step()
    until(lambda: stack.client.run(agent.run_id).desired.state is RevisionState.REJECTED)
    assert "lr_scale" in stack.client.run(agent.run_id).desired.reason
    assert agent.settings.lr_scale == 1.0
    agent.close(state="failed", reason="enough")
    detail = stack.client.run(agent.run_id)
    assert (detail.state, detail.end_reason) == (RunState.FAILED, "enough")


def test_a_resumed_run_continues_in_the_server(make_training: type[Training], stack: RunningStack) -> None:
    first, second = make_training(), make_training()
    agent = steadynorm.attach(first.model, first.optimizer, run="resumed", server=stack.server, token=stack.token)
    for _ in range(12):
        first.step()
    state = agent.state_dict()
    assert agent.flush(20)
    agent.close()
    again = steadynorm.attach(second.model, second.optimizer, server=stack.server, token=stack.token)
    again.load_state_dict(state)
    for _ in range(5):
        second.step()
    assert again.flush(20)
    again.close()
    detail = stack.client.run(agent.run_id)
    assert (detail.step, detail.incarnation, detail.state) == (17, 2, RunState.FINISHED)
    assert detail.counters.steps == 17
    assert again.counters.dropped == again.counters.buffered == 0


def test_a_wrong_token_is_said_once_and_training_goes_on(
    training: Training, stack: RunningStack, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stack.server, token="wrong")
    for _ in range(3):
        training.step()
    until(lambda: "rejects this run's data" in caplog.text)
    assert "401" in caplog.text
    agent.close()
    counters = agent.counters
    assert counters.produced == counters.buffered > 0
