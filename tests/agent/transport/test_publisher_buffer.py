"""The account of records adds up at any moment, whatever is added, sent, lost or thinned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.mailbox import Mailbox
from steadynorm.transport.send_buffer import Buffer
from steadynorm_contract.codec import decode_batch
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import MAX_BATCH_BYTES, ROW_COLUMNS, SCALAR_COLUMNS, TelemetryBatch

PARAMETERS = 3
SCALARS = bytes(4 * len(SCALAR_COLUMNS))
ROWS = bytes(4 * PARAMETERS * len(ROW_COLUMNS))


def settled(buffer: Buffer) -> bool:
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
    buffer = Buffer(5_000, PARAMETERS)
    step, under_way = 0, False
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
        elif action == "send" and not under_way:
            under_way = buffer.load(amount) is not None
        elif action in ("arrived", "gave up"):
            buffer.unload(acknowledged=action == "arrived")
            under_way = False
        assert settled(buffer)
    assert buffer.counters.buffered <= 5_000 // len(SCALARS) + 1


def test_rows_are_thinned_before_any_scalars_are_dropped() -> None:
    buffer = Buffer(100_000, PARAMETERS)
    for step in range(1, 301):
        buffer.add_scalars(step, 0.0, SCALARS)
        buffer.add_rows(step, ROWS)
    load = buffer.load(10**9)
    assert load is not None
    assert load.scalars is not None
    assert load.rows is not None
    assert load.scalars.steps == list(range(1, 301))
    assert 0 < len(load.rows.steps) < 300
    assert load.rows.steps == sorted(load.rows.steps)
    assert load.rows.steps[-1] == 300
    assert buffer.counters.dropped == 300 - len(load.rows.steps)


def test_the_oldest_scalars_go_when_no_rows_are_left() -> None:
    buffer = Buffer(20_000, PARAMETERS)
    for step in range(1, 1001):
        buffer.add_scalars(step, 0.0, SCALARS)
    load = buffer.load(10**9)
    assert load is not None
    assert load.scalars is not None
    assert load.scalars.steps == list(range(1001 - load.records, 1001))
    assert buffer.counters.dropped == 1000 - load.records


@pytest.fixture
def buffer() -> Buffer:
    """Roomy."""
    return Buffer(10**9, 1000)


@pytest.fixture
def outbox(buffer: Buffer) -> BatchBuilder:
    """Registered as incarnation 1."""
    outbox = BatchBuilder(buffer, Mailbox(Settings()))
    outbox.resume(1, 0)
    return outbox


def sent(outbox: BatchBuilder) -> TelemetryBatch:
    body = outbox.next_body()
    assert body is not None
    return decode_batch(body)


def test_a_batch_never_exceeds_what_the_server_takes(buffer: Buffer, outbox: BatchBuilder) -> None:
    rows = bytes(4 * 1000 * len(ROW_COLUMNS))
    for step in range(1, 501):
        buffer.add_scalars(step, 0.0, SCALARS)
        buffer.add_rows(step, rows)
    sizes, steps, row_steps, sequences = [], [], [], []
    while (body := outbox.next_body()) is not None:
        batch = decode_batch(body)
        sizes.append(len(body))
        sequences.append(batch.sequence)
        steps += batch.scalars.steps if batch.scalars else []
        row_steps += batch.rows.steps if batch.rows else []
        assert outbox.acknowledge(batch.sequence)
    assert max(sizes) <= MAX_BATCH_BYTES
    assert len(sizes) == 3
    assert sequences == [1, 2, 3]
    assert steps == row_steps == list(range(1, 501))


def test_a_batch_is_resent_as_the_very_same_bytes(buffer: Buffer, outbox: BatchBuilder) -> None:
    buffer.add_scalars(1, 0.0, SCALARS)
    body = outbox.next_body()
    buffer.add_scalars(2, 0.0, SCALARS)
    assert outbox.next_body() is body
    assert not outbox.acknowledge(0)
    outbox.resume(1, 0)  # registered again by the same agent at a server that has not got it
    assert outbox.next_body() is body
    assert outbox.acknowledge(1)
    assert sent(outbox).sequence == 2


def test_registering_again_tells_that_a_batch_had_arrived(buffer: Buffer, outbox: BatchBuilder) -> None:
    buffer.add_scalars(1, 0.0, SCALARS)
    outbox.next_body()
    outbox.resume(1, 1)
    assert outbox.next_body() is None
    assert buffer.counters.acknowledged == 1


@pytest.mark.parametrize(("incarnation", "acknowledged"), [(2, 0), (1, 0)])
def test_a_server_that_forgot_gets_the_batch_under_a_new_identity(
    buffer: Buffer, outbox: BatchBuilder, incarnation: int, acknowledged: int
) -> None:
    buffer.add_scalars(1, 0.0, SCALARS)
    outbox.next_body()
    outbox.acknowledge(1)
    buffer.add_scalars(2, 0.0, SCALARS)
    assert sent(outbox).sequence == 2
    outbox.resume(incarnation, acknowledged)
    again = sent(outbox)
    assert (again.incarnation, again.sequence) == (incarnation, 1)
    assert again.scalars is not None
    assert again.scalars.steps == [2]
