"""Objects of the training code whose text, or whose code, raises: that is told as well as it can be, and no more."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import steadynorm
from steadynorm.lifecycle import described, readable
from steadynorm.run_config import clean_config
from steadynorm_contract.telemetry import NoteKind

if TYPE_CHECKING:
    from tests.support.agent import StubServer, Training

Until = Callable[[Callable[[], object]], None]


class Mute:
    """Raises where it is asked for its text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class MuteError(ValueError):
    __str__ = __repr__ = Mute.__str__


class MuteSaver(Mute):
    def __call__(self, step: object) -> None:
        raise MuteError


class MuteNumber(Mute):
    def __float__(self) -> float:
        raise MuteError


def test_a_checkpoint_callback_without_a_text_fails_as_any_other(
    training: Training, stub: StubServer, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    agent.on_checkpoint(MuteSaver())
    until(lambda: agent.run_id in stub.runs)
    revision = stub.change(checkpoint_generation=1)
    until(lambda: agent._mailbox.seen_revision >= revision)
    training.step()
    assert (agent.callback_errors, agent.counters.errors) == (1, 0)
    agent.close()
    assert "the checkpoint callback <MuteSaver, whose repr cannot be read> failed" in caplog.text
    notes = [note.message for batch in stub.run.batches for note in batch.notes if note.kind is NoteKind.FINDING]
    assert [note.partition(". ")[0] for note in notes] == [
        "the checkpoint that was asked for failed: MuteError: its text cannot be read"
    ]


@pytest.mark.parametrize("values", [{"a": MuteNumber()}, {Mute(): 1.0}, {Mute(): MuteNumber()}, {"a": Mute()}])
def test_a_scalar_that_cannot_be_read_is_left_out(
    training: Training, stub: StubServer, values: dict[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="steadynorm")
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    training.step()
    agent.log({**values, "good": 2.0})
    agent.close()
    assert agent.counters.errors == 0
    assert caplog.text.count("agent.log() leaves out a scalar, and records the others") == 1
    assert [each.names for batch in stub.run.batches for each in batch.logged] == [("good",)]


def test_a_configuration_that_cannot_be_read_does_not_keep_a_job_from_training() -> None:
    found = clean_config({"lr": 0.1, "data": Mute(), Mute(): 1})
    assert found == {"lr": 0.1, "data": "its text cannot be read", "its text cannot be read": 1}


def test_an_error_or_an_object_is_described_whatever_its_own_code_does() -> None:
    assert described(MuteError()) == "MuteError: its text cannot be read"
    assert readable(Mute(), repr) == "<Mute, whose repr cannot be read>"
    assert readable(OSError("disk full"), repr) == "OSError('disk full')"
