"""A batch that the server will never take costs its own records at most, and holds nothing up behind it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

import steadynorm
from steadynorm.mailbox import Mailbox
from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm_contract.codec import decode_batch
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    AgentCounters,
    AgentNote,
    AppliedReport,
    NoteKind,
    RevisionOutcome,
    TelemetryBatch,
)

if TYPE_CHECKING:
    from tests.support.agent import Response, StubServer, Training

Until = Callable[[Callable[[], object]], None]
PARAMETERS = 100
SCALARS = bytes(range(4 * len(SCALAR_COLUMNS)))
ROWS = bytes(4 * PARAMETERS * len(ROW_COLUMNS))
REFUSED = b'{"title": "No", "status": 0, "detail": "because"}'


def settled(counters: AgentCounters) -> bool:
    return counters.produced == counters.acknowledged + counters.dropped + counters.buffered


class Outgoing:
    """A buffer, a mailbox and the batches over them, registered as incarnation 1."""

    def __init__(self, parameters: int = PARAMETERS) -> None:
        self.buffer = SendBuffer(10**8, parameters)
        self.mailbox = Mailbox(Settings())
        self.batches = BatchBuilder(self.buffer, self.mailbox)
        self.batches.resume(1, 0)

    def next(self) -> TelemetryBatch:
        body = self.batches.next_body()
        assert body is not None
        batch = decode_batch(body)
        assert settled(batch.counters)
        assert settled(self.buffer.counters)
        return batch

    def tell(self, revision: int) -> None:
        self.mailbox.report(AppliedReport(revision, 1, RevisionOutcome.APPLIED, Settings(), 0.0))
        self.mailbox.note(AgentNote(NoteKind.RANK_FAILED, 1, 0.0, 1, "a word"))


@pytest.fixture
def outgoing() -> Outgoing:
    """Nothing in it."""
    return Outgoing()


def test_what_was_told_beside_refused_records_goes_out_alone(outgoing: Outgoing) -> None:
    outgoing.buffer.add_scalars(1, 0.0, SCALARS)
    outgoing.tell(7)
    assert outgoing.next().scalars is not None
    assert outgoing.batches.discard() == 1
    outgoing.buffer.add_scalars(2, 0.0, SCALARS)
    outgoing.tell(8)
    again = outgoing.next()
    assert (again.scalars, again.sequence, again.counters.dropped) == (None, 1, 1)
    assert [report.revision for report in again.applied] == [7]
    assert len(again.notes) == 1
    assert outgoing.batches.acknowledge(1)
    later = outgoing.next()
    assert later.scalars is not None
    assert (later.scalars.steps, later.sequence, [report.revision for report in later.applied]) == ([2], 2, [8])


def test_what_is_refused_without_any_records_is_not_told_for_ever(outgoing: Outgoing) -> None:
    outgoing.tell(7)
    outgoing.next()
    assert outgoing.batches.discard() == 0
    assert outgoing.batches.next_body() is None


def test_a_batch_that_is_too_large_goes_out_in_parts_and_later_ones_stay_small(outgoing: Outgoing) -> None:
    for step in range(1, 401):
        outgoing.buffer.add_scalars(step, step / 2, SCALARS, f"batch {step}")
        outgoing.buffer.add_rows(step, ROWS)
    limit, batches = 150_000, 0
    steps: list[int] = []
    row_steps: list[int] = []
    told: list[AppliedReport] = []
    outgoing.tell(7)
    while outgoing.batches.next_body() is not None:
        body, batch = outgoing.batches.next_body() or b"", outgoing.next()
        if len(body) > limit:
            assert outgoing.batches.split()
            assert outgoing.buffer.counters.buffered == 800 - len(steps) - len(row_steps)
            continue
        batches += 1
        told += batch.applied
        if batch.scalars is not None:
            steps += batch.scalars.steps
            assert list(batch.scalars.time_values()) == [step / 2 for step in batch.scalars.steps]
            assert batch.scalars.data == SCALARS * len(batch.scalars.steps)
            assert batch.batch_ids == {step: f"batch {step}" for step in batch.scalars.steps}
        row_steps += batch.rows.steps if batch.rows else []
        assert outgoing.batches.acknowledge(batch.sequence)
    assert steps == row_steps == list(range(1, 401))
    assert len(told) == 1
    assert batches < 40
    assert outgoing.buffer.waiting_bytes == 0
    assert outgoing.batches.chunk_bytes < limit


def test_what_cannot_be_split_any_further_is_given_up() -> None:
    outgoing = Outgoing(100 * PARAMETERS)
    outgoing.buffer.add_rows(1, 100 * ROWS)
    outgoing.next()
    assert not outgoing.batches.split()
    assert outgoing.batches.discard() == 1
    for step in range(2, 100):
        outgoing.buffer.add_scalars(step, 0.0, SCALARS)
    outgoing.next()
    assert not outgoing.batches.split()  # a server that does not take so little will not take half of it
    outgoing.tell(1)
    assert outgoing.batches.discard() == 98
    outgoing.next()
    assert not outgoing.batches.split()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_batch_is_given_up_with_one_word_and_the_next_one_arrives(
    training: Training, stub: StubServer, status: int, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    assert agent.flush(20)
    revision = stub.change(gamma1=0.5)
    until(lambda: agent._mailbox.seen_revision == revision)
    refused: list[TelemetryBatch] = []

    def refuse(method: str, path: str, body: bytes) -> Response | None:
        if not path.endswith("/telemetry") or (batch := decode_batch(body)).scalars is None:
            return None
        refused.append(batch)
        return status, REFUSED, {}

    stub.fault = refuse
    training.step()
    agent.flush(20)
    dropped = agent.counters.dropped
    stub.fault = lambda method, path, body: None
    until(lambda: stub.run.reports)
    assert [report.revision for report in stub.run.reports] == [revision]
    training.step()
    agent.close()
    lost = [step for batch in refused if batch.scalars for step in batch.scalars.steps]
    assert lost == [2]
    assert stub.run.steps == [1, 3]
    assert (agent.counters.buffered, agent.counters.dropped) == (0, dropped)
    assert stub.run.batches[-1].counters.dropped == dropped
    assert settled(agent.counters)
    said = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1
    assert "1 record dropped" in said[0]
    assert f"{status} No: because" in said[0]


def test_a_run_that_closes_amid_refusals_still_says_that_it_ended(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    stub.fault = lambda method, path, body: (422, REFUSED, {}) if path.endswith("/telemetry") else None
    for _ in range(20):
        training.step()
    agent.close()
    assert stub.run.finish is not None
    assert agent.counters.dropped == agent.counters.produced > 20
