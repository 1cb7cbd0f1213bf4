"""The flight recorder's incident: 64 steps of all tensors around an alarm, with the name of the data that caused it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import steadynorm
from steadynorm.recording.logged import validate_batch_id, validate_note
from steadynorm.transport.batches import BatchBuilder
from steadynorm.transport.send_buffer import SendBuffer
from steadynorm_contract.codec import decode_batch
from steadynorm_contract.telemetry import MAX_BATCH_BYTES, MAX_BATCH_ID_LENGTH, SCALAR_COLUMNS

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training
    from tests.support.local_server import RunningStack

from steadynorm.mailbox import Mailbox
from steadynorm_contract.settings import Settings


def names_of(stub: StubServer) -> dict[int, str]:
    return {step: name for batch in stub.run.batches for step, name in batch.batch_ids.items()}


@pytest.mark.parametrize("when", ["before the step", "after it"])
def test_a_spike_carries_the_name_of_its_data_and_64_steps_of_all_tensors(
    training: Training, stub: StubServer, when: str
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, detail_every=1000)
    for step in range(1, 121):
        if when == "before the step":
            agent.log(batch_id=f"shard3:{step}")
        loss = training.step(spike=1e4 if step == 60 else 1.0)
        agent.log(loss=loss)
        if when == "after it":
            agent.log(batch_id=f"shard3:{step}")
    agent.close()
    assert names_of(stub) == {60: "shard3:60"}
    assert sorted(stub.run.row_steps) == [1, *range(28, 92)]
    assert len(stub.run.column("loss")) == 120
    counters = agent.counters
    assert counters.produced == counters.acknowledged == 120 + 65


def test_a_nonfinite_step_carries_it_too_and_a_step_without_a_name_none(training: Training, stub: StubServer) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url, mode="stabilize")
    for step in range(1, 11):
        training.step(spike=float("nan") if step in (4, 7) else 1.0)
        agent.log(loss=1.0, batch_id=10_000_000 + step) if step == 7 else agent.log(loss=1.0)
    agent.close()
    assert names_of(stub) == {7: "10000007"}


@pytest.mark.parametrize("wrong", [1.5, True, b"shard", ["a"]])
def test_a_batch_id_is_a_string_or_a_whole_number(training: Training, wrong: object) -> None:
    agent = steadynorm.attach(training.model, training.optimizer)
    with pytest.raises(TypeError, match="batch_id must be a string or a whole number"):
        agent.log(batch_id=wrong)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="at most 200 characters: got 201"):
        agent.log(batch_id="x" * 201)
    agent.log(loss=torch.tensor(1.0), batch_id="x" * 200)
    agent.close()


def test_names_count_towards_the_cap_and_the_size_of_a_request() -> None:
    buffer = SendBuffer(10**9, 1)
    batches = BatchBuilder(buffer, Mailbox(Settings()))
    batches.resume(1, 0)
    name = "\N{SNOWMAN}" * MAX_BATCH_ID_LENGTH
    for step in range(1, 10_001):
        buffer.add_scalars(step, 0.0, bytes(4 * len(SCALAR_COLUMNS)), name)
    named: dict[int, str] = {}
    while (body := batches.next_body()) is not None:
        assert len(body) <= MAX_BATCH_BYTES
        batch = decode_batch(body)
        named |= batch.batch_ids
        assert batches.acknowledge(batch.sequence)
    assert named == dict.fromkeys(range(1, 10_001), name)
    assert buffer.waiting_bytes == 0
    small = SendBuffer(100_000, 1)
    for step in range(1, 1001):
        small.add_scalars(step, 0.0, bytes(4 * len(SCALAR_COLUMNS)), name)
        assert small.waiting_bytes <= 100_000
    assert small.counters.dropped > 800


def test_an_incident_at_the_real_server_names_its_data(training: Training, stack: RunningStack) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stack.server, token=stack.token)
    for step in range(1, 81):
        agent.log(loss=training.step(spike=1e4 if step == 40 else 1.0), batch_id=f"shard3:{step}")
    agent.close()
    spikes = [event for event in stack.client.events(agent.run_id).events if event.kind == "spike"]
    assert [(event.step, event.batch_id) for event in spikes] == [(40, "shard3:40")]
    rows = stack.client.series(agent.run_id, ["raw_norm/0.weight"]).series["raw_norm/0.weight"]
    assert sum(rows.count) == 64 + 2  # from 8 to 71, and 1 and 80


def test_a_file_name_that_is_no_utf8_can_be_sent() -> None:
    name = b"shard-\xff:7".decode("utf-8", "surrogateescape")
    assert validate_batch_id(name) == validate_note(name) == "shard-?:7"
