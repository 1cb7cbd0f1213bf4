"""One process, several incarnations of its run: nothing is stored or counted twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import steadynorm
from steadynorm.mailbox import Mailbox
from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm_contract.codec import decode_batch
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import SCALAR_COLUMNS, AgentCounters

if TYPE_CHECKING:
    from tests.support.agent import Response, StubServer, Training
    from tests.support.local_server import RunningStack

SCALARS = bytes(4 * len(SCALAR_COLUMNS))


@pytest.fixture
def buffer() -> SendBuffer:
    """Roomy."""
    return SendBuffer(10**8, 1)


@pytest.fixture
def batches(buffer: SendBuffer) -> BatchBuilder:
    """Registered as incarnation 1."""
    batches = BatchBuilder(buffer, Mailbox(Settings()))
    batches.resume(1, 0)
    return batches


def told(batches: BatchBuilder) -> AgentCounters:
    body = batches.next_body()
    assert body is not None
    return decode_batch(body).counters


def test_each_incarnation_counts_from_its_own_beginning(buffer: SendBuffer, batches: BatchBuilder) -> None:
    buffer.add_lost(5)
    buffer.add_error()
    for step in (1, 2, 3):
        buffer.add_scalars(step, 0.0, SCALARS)
    assert told(batches) == AgentCounters(produced=8, dropped=5, buffered=3, errors=1)
    batches.acknowledge(1)
    buffer.add_lost(2)  # the first incarnation never told of these
    buffer.add_error(sending=True)
    buffer.add_scalars(4, 0.0, SCALARS)
    batches.resume(2, 0)
    assert told(batches) == AgentCounters(produced=3, dropped=2, buffered=1, errors=1, sending_errors=1)
    batches.acknowledge(1)
    buffer.add_scalars(5, 0.0, SCALARS)
    assert told(batches) == AgentCounters(produced=4, acknowledged=1, dropped=2, buffered=1, errors=1, sending_errors=1)
    assert buffer.counters == AgentCounters(12, 4, 7, 1, 2, 1)


@pytest.mark.parametrize(("previous", "stored"), [(1, True), (2, True), (0, False), (None, False)])
def test_a_batch_that_the_incarnation_before_had_stored_is_not_sent_again(
    buffer: SendBuffer, batches: BatchBuilder, previous: int | None, stored: bool
) -> None:
    buffer.add_lost(5)
    buffer.add_scalars(1, 0.0, SCALARS)
    told(batches)
    batches.resume(2, 0, previous)
    if stored:
        assert batches.next_body() is None
        assert buffer.counters.acknowledged == 1
        buffer.add_scalars(2, 0.0, SCALARS)
    assert told(batches) == AgentCounters(produced=1 if stored else 6, dropped=0 if stored else 5, buffered=1)
    assert decode_batch(batches.next_body() or b"").sequence == 1


def test_a_batch_whose_answer_was_lost_before_a_checkpoint_was_loaded_is_stored_once(
    training: Training, stub: StubServer
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    training.step()
    assert agent.flush(20)  # with the report of the self-check, which would be a batch of its own
    state = agent.state_dict()
    lost: list[bytes] = []

    def lose(method: str, path: str, body: bytes) -> Response | None:
        if not path.endswith("/telemetry"):
            return None
        if not lost:
            lost.append(body)
            stub.serve(f"/api/v1{path}", body)
        return 503, b"", {}

    stub.fault = lose
    training.step()
    assert not agent.flush(20)
    assert lost
    agent.load_state_dict(state)
    stub.fault = lambda method, path, body: None
    training.step()
    agent.close()
    assert stub.run.steps == [1, 2, 3, 3]  # the second time under the next incarnation: step 3 was taken twice
    stored = [(batch.incarnation, list(batch.scalars.steps)) for batch in stub.run.batches if batch.scalars]
    assert stored[-2:] == [(1, [3]), (2, [3])]
    assert agent.counters.acknowledged == agent.counters.produced
    assert stub.run.registrations[-1].previous_instance == stub.run.registrations[0].instance


def test_the_server_counts_what_was_dropped_once_over_incarnations(training: Training, stack: RunningStack) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stack.server, token=stack.token)
    training.step()
    agent._publisher._buffer.add_lost(4)  # type: ignore[union-attr]  # there is a server
    agent._publisher._buffer.add_error(sending=True)  # type: ignore[union-attr]
    assert not agent.flush(20)  # four were dropped
    assert agent.counters.buffered == 0
    for _ in range(2):
        agent.load_state_dict(agent.state_dict())
        training.step()
        assert agent.flush(20)
    detail = stack.client.run(agent.run_id)
    agent.close()
    assert detail.incarnation == 3
    assert (detail.counters.dropped, detail.counters.agent_errors) == (4, 1)
    assert (agent.counters.dropped, agent.counters.errors) == (4, 1)
