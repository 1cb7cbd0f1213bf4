"""The account of records adds up at any moment, whatever is added, sent, lost or thinned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadynorm.mailbox import Mailbox
from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm_contract.codec import decode_batch
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import MAX_BATCH_BYTES, ROW_COLUMNS, SCALAR_COLUMNS, TelemetryBatch

PARAMETERS = 3
SCALARS = bytes(4 * len(SCALAR_COLUMNS))
ROWS = bytes(4 * PARAMETERS * len(ROW_COLUMNS))


def settled(buffer: SendBuffer) -> bool:
    counters = buffer.counters
    return counters.produced == counters.acknowledged + counters.dropped + counters.buffered


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("scalars"), st.integers(1, 30)),
            st.tuples(st.just("rows"), st.integers(1, 30)),
            st.tuples(st.just("lost"), st.integers(1, 5)),
            st.tuples(st.just("send"), st.integers(1, 5000)),
            st.tuples(st.sampled_from(["arrived", "gave up"]), st.just(0)),
        ),
        max_size=60,
    )
)
def test_produced_is_acknowledged_and_dropped_and_buffered(actions: list[tuple[str, int]]) -> None:
    buffer = SendBuffer(5_000, PARAMETERS)
    step, in_progress = 0, False
    for action, amount in actions:
        if action == "scalars":
            for _ in range(amount):
                step += 1
                buffer.add_scalars(step, 0.0, SCALARS)
                assert settled(buffer)
        elif action == "rows":
            for _ in range(amount):
                buffer.add_rows(step, ROWS)
                assert settled(buffer)
        elif action == "lost":
            buffer.add_lost(amount)
        elif action == "send" and not in_progress:
            in_progress = buffer.take(amount) is not None
        elif action in ("arrived", "gave up"):
            buffer.release(acknowledged=action == "arrived")
            in_progress = False
        assert settled(buffer)
    assert buffer.counters.buffered <= 5_000 // len(SCALARS) + 1


def test_rows_are_thinned_before_any_scalars_are_dropped() -> None:
    buffer = SendBuffer(100_000, PARAMETERS)
    for step in range(1, 301):
        buffer.add_scalars(step, 0.0, SCALARS)
        buffer.add_rows(step, ROWS)
    chunk = buffer.take(10**9)
    assert chunk is not None
    assert chunk.scalars is not None
    assert chunk.rows is not None
    assert chunk.scalars.steps == list(range(1, 301))
    assert 0 < len(chunk.rows.steps) < 300
    assert chunk.rows.steps == sorted(chunk.rows.steps)
    assert chunk.rows.steps[-1] == 300
    assert buffer.counters.dropped == 300 - len(chunk.rows.steps)


def test_the_oldest_scalars_go_when_no_rows_are_left() -> None:
    buffer = SendBuffer(20_000, PARAMETERS)
    for step in range(1, 1001):
        buffer.add_scalars(step, 0.0, SCALARS)
    chunk = buffer.take(10**9)
    assert chunk is not None
    assert chunk.scalars is not None
    assert chunk.scalars.steps == list(range(1001 - chunk.records, 1001))
    assert buffer.counters.dropped == 1000 - chunk.records


@pytest.fixture
def buffer() -> SendBuffer:
    """Roomy."""
    return SendBuffer(10**9, 1000)


@pytest.fixture
def batches(buffer: SendBuffer) -> BatchBuilder:
    """Registered as incarnation 1."""
    batches = BatchBuilder(buffer, Mailbox(Settings()))
    batches.resume(1, 0)
    return batches


def sent(batches: BatchBuilder) -> TelemetryBatch:
    body = batches.next_body()
    assert body is not None
    return decode_batch(body)


def test_a_batch_never_exceeds_what_the_server_takes(buffer: SendBuffer, batches: BatchBuilder) -> None:
    rows = bytes(4 * 1000 * len(ROW_COLUMNS))
    for step in range(1, 501):
        buffer.add_scalars(step, 0.0, SCALARS)
        buffer.add_rows(step, rows)
    sizes, steps, row_steps, sequences = [], [], [], []
    while (body := batches.next_body()) is not None:
        batch = decode_batch(body)
        sizes.append(len(body))
        sequences.append(batch.sequence)
        steps += batch.scalars.steps if batch.scalars else []
        row_steps += batch.rows.steps if batch.rows else []
        assert batches.acknowledge(batch.sequence)
    assert max(sizes) <= MAX_BATCH_BYTES
    assert len(sizes) == 3
    assert sequences == [1, 2, 3]
    assert steps == row_steps == list(range(1, 501))


def test_a_batch_is_resent_as_the_very_same_bytes(buffer: SendBuffer, batches: BatchBuilder) -> None:
    buffer.add_scalars(1, 0.0, SCALARS)
    body = batches.next_body()
    buffer.add_scalars(2, 0.0, SCALARS)
    assert batches.next_body() is body
    assert not batches.acknowledge(0)
    batches.resume(1, 0)  # registered again by the same agent at a server that has not got it
    assert batches.next_body() is body
    assert batches.acknowledge(1)
    assert sent(batches).sequence == 2


def test_registering_again_tells_that_a_batch_had_arrived(buffer: SendBuffer, batches: BatchBuilder) -> None:
    buffer.add_scalars(1, 0.0, SCALARS)
    batches.next_body()
    batches.resume(1, 1)
    assert batches.next_body() is None
    assert buffer.counters.acknowledged == 1


@pytest.mark.parametrize(("incarnation", "acknowledged"), [(2, 0), (1, 0)])
def test_a_server_that_forgot_gets_the_batch_under_a_new_identity(
    buffer: SendBuffer, batches: BatchBuilder, incarnation: int, acknowledged: int
) -> None:
    buffer.add_scalars(1, 0.0, SCALARS)
    batches.next_body()
    batches.acknowledge(1)
    buffer.add_scalars(2, 0.0, SCALARS)
    assert sent(batches).sequence == 2
    batches.resume(incarnation, acknowledged)
    again = sent(batches)
    assert (again.incarnation, again.sequence) == (incarnation, 1)
    assert again.scalars is not None
    assert again.scalars.steps == [2]
