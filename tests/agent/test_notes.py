"""`agent.note()`: a text of the training loop on its way to the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import steadynorm
from steadynorm import mailbox
from steadynorm.transport import batches
from steadynorm_contract.notes import MAX_NOTE_LENGTH
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import AgentNote, NoteKind

if TYPE_CHECKING:
    from tests.support.agent import Response, StubServer, Training
    from tests.support.local_server import RunningStack

Until = Callable[[Callable[[], object]], None]


def test_notes_wait_for_a_server_that_is_away_and_arrive_once_in_order(
    training: Training, stub: StubServer, until: Until
) -> None:
    away, answers = True, threading.Event()

    def fault(method: str, path: str, body: bytes) -> Response | None:
        answers.wait(600)
        return (503, b"", {"Retry-After": "0"}) if away else None

    stub.fault = fault
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    agent.note("before the first step")
    began = time.monotonic()
    for step in range(1, 41):
        agent.log(loss=training.step())
        agent.note(f"step {step} " + "\N{SNOWMAN}" * (MAX_NOTE_LENGTH - 10))
    assert time.monotonic() - began < 60  # nothing waits for the server, which keeps each request for ten minutes
    answers.set()
    stub.wait_for(lambda: any(path.endswith("/runs") for _, path, _, _ in stub.requests))
    away = False
    until(lambda: agent.flush(1))  # False while it waits before it tries again
    agent.close()
    sent = [note for batch in stub.run.batches for note in batch.user_notes]
    assert [note.text.partition(" \N{SNOWMAN}")[0] for note in sent] == [
        "before the first step",
        *(f"step {step}" for step in range(1, 41)),
    ]
    assert [note.step for note in sent] == list(range(41))
    assert max(len(batch.user_notes) for batch in stub.run.batches) == batches._MAX_USER_NOTES


def test_too_many_notes_are_dropped_with_a_word_and_a_bad_one_is_refused(
    training: Training, stub: StubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mailbox, "MAX_USER_NOTES", 2)
    agent = steadynorm.attach(training.model, training.optimizer, server=stub.url)
    for text in ("a", "b", "c"):  # before the first step nothing is sent
        agent.note(text)
    assert "agent.note() is dropped" in caplog.text
    with pytest.raises(TypeError, match="must be a string: got int"):
        agent.note(7)  # type: ignore[arg-type]  # what is tested
    for bad in (" ", "x" * (MAX_NOTE_LENGTH + 1)):
        with pytest.raises(ValueError, match=r"1 to 2000 characters: got (0|2001)"):
            agent.note(bad)
    assert caplog.text.count("agent.note() is dropped") == 1
    monkeypatch.undo()
    agent.note("bad shard \udcff")  # as a file name may be that is no UTF-8
    training.step()
    agent.close()
    assert [note.text for batch in stub.run.batches for note in batch.user_notes] == ["a", "b", "bad shard ?"]
    assert agent.counters.dropped == 0
    agent.note("after the end")
    assert [note.text for batch in stub.run.batches for note in batch.user_notes] == ["a", "b", "bad shard ?"]


def test_a_note_is_stored_by_the_real_server(training: Training, stack: RunningStack) -> None:
    agent = steadynorm.attach(training.model, training.optimizer, server=stack.server, token=stack.token)
    training.step()
    agent.note(" new data from here on ")
    agent.close()
    (note,) = stack.client.notes(agent.run_id).notes
    assert (note.text, note.step, note.author, note.by_agent) == ("new data from here on", 1, "training loop", True)


def test_a_note_that_comes_while_a_full_queue_is_taken_is_not_lost() -> None:
    waiting = mailbox.Mailbox(Settings())

    def note(number: int) -> None:
        waiting.note(AgentNote(NoteKind.FINDING, number, 0.0, 0, ""))

    for number in range(mailbox.MAX_NOTES):
        note(number)
    numbered: Any = waiting._numbered

    def amid(message: Any) -> Any:
        note(1000)
        return numbered(message)

    waiting._numbered = amid  # type: ignore[method-assign]  # as another thread would
    assert [each.step for each in waiting.notes()] == list(range(mailbox.MAX_NOTES))
    waiting._numbered = numbered  # type: ignore[method-assign]  # as it was
    assert [each.step for each in waiting.notes()] == [1000] * mailbox.MAX_NOTES
