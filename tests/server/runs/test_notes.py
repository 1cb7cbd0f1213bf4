"""Notes on runs, steps and incidents; incidents that are taken, handed over and closed."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import httpx
import msgspec
import pytest
import redis
from tests.support.server import STARTED, FakeAgent

from steadynorm_contract.codec import encode_json
from steadynorm_contract.notes import MAX_NOTE_LENGTH, NewNote, Note, NoteList, verify_notes
from steadynorm_contract.telemetry import UserNote
from steadynorm_server.runs import notes
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository


async def write(agent: FakeAgent, **note: Any) -> httpx.Response:
    return await agent.client.post(f"{agent.run}/notes", content=encode_json(note))


async def written(agent: FakeAgent, **note: Any) -> Note:
    answer = await write(agent, **note)
    assert answer.status_code == 201, answer.text
    return msgspec.json.decode(answer.content, type=Note)


async def listed(agent: FakeAgent, **query: Any) -> NoteList:
    return msgspec.convert(await agent.get("/notes", **query), NoteList)


async def spiked(agent: FakeAgent, step: int) -> str:
    """Id of the event of a spike at this step."""
    await agent.send([step], spikes=1, spike_ratio_max=50)
    event: dict[str, Any] = (await agent.events())[-1]
    assert (event["kind"], event["step"]) == ("spike", step)
    return str(event["id"])


async def test_notes_are_listed_newest_first_in_pages_and_form_a_chain(agent: FakeAgent) -> None:
    await agent.send([1, 2, 3])
    hostile = '<img src=x onerror="alert(1)"> **[a](javascript:b)** \u202e\x07 \U0001f600\nsecond line'
    first = await written(agent, text=f"  {hostile}  ")
    await agent.send(user_notes=[UserNote(2, STARTED + 2, "new data from here on")])
    last = await written(agent, text="y" * MAX_NOTE_LENGTH, step=1)
    assert (first.text, first.step, first.author, first.by_agent, first.time) == (hostile, 3, "local", False, STARTED)
    found = await listed(agent)
    assert [note.step for note in found.notes] == [1, 2, 3]
    assert (found.notes[0], found.notes[-1]) == (last, first)
    loop = found.notes[1]
    assert (loop.text, loop.author, loop.by_agent) == ("new data from here on", "training loop", True)
    page = await listed(agent, limit=2)
    assert page.next is not None
    assert page.notes + (await listed(agent, limit=2, cursor=page.next)).notes == found.notes
    chain = verify_notes("tiny-1", found.notes)
    assert (chain.verified, chain.head) == (True, last.hash)
    for at in range(3):
        changed = [*found.notes]
        changed[at] = msgspec.structs.replace(changed[at], text="another")
        assert not verify_notes("tiny-1", changed).verified
    assert not verify_notes("tiny-1", [found.notes[0], found.notes[2]]).verified
    assert not verify_notes("tiny-2", found.notes).verified
    assert verify_notes("tiny-1", found.notes, found.head).verified
    assert not verify_notes("tiny-1", found.notes[1:], found.head).verified  # the newest is missing


async def test_an_incident_is_taken_by_one_handed_over_closed_and_opened_again(agent: FakeAgent) -> None:
    event = await spiked(agent, 7)
    assert (await agent.get())["incidents"] == []
    taken = await written(agent, action="take", event=event, to="ada")
    assert taken.step == 7
    refused = await write(agent, action="take", event=event, to="bob")
    assert (refused.status_code, refused.json()["title"]) == (409, "Taken")
    assert refused.json()["detail"].startswith("ada deals with this incident.")
    await written(agent, action="take", event=event, to="ada")
    await written(agent, action="hand_over", event=event, to="bob", text="shard 6 is corrupt")
    (status,) = (await agent.get())["incidents"]
    assert status == {"event": event, "step": 7, "state": "taken", "by": "bob", "time": STARTED}
    other = await spiked(agent, 300)
    await written(agent, action="take", event=other)
    await written(agent, action="close", event=event, text="data repaired")
    (run,) = (await agent.client.get("/runs")).json()["runs"]
    assert [(each["event"], each["state"], each["by"]) for each in run["incidents"]] == [
        (event, "closed", "local"),
        (other, "taken", "local"),
    ]
    await written(agent, action="take", event=event, to="eve")
    found = await listed(agent)
    assert [note.action.value for note in found.notes] == ["take", "close", "take", "hand_over", "take", "take"]
    assert (found.incidents[0].by, found.incidents[0].state.value) == ("eve", "taken")
    assert verify_notes("tiny-1", found.notes).verified


async def test_a_bad_note_is_refused_with_its_rule(agent: FakeAgent) -> None:
    bad: list[tuple[str, dict[str, Any]]] = [
        ("text", {"text": " \n"}),
        ("text", {"text": "x" * (MAX_NOTE_LENGTH + 1)}),
        ("step", {"text": "x", "step": -1}),
        ("step", {"text": "x", "step": 2**53}),
        ("event", {"text": "x", "event": "1-0"}),
        ("event", {"text": "x", "event": "(1-0"}),
        ("event", {"action": "take"}),
        ("to", {"action": "hand_over", "event": "1-0"}),
        ("to", {"action": "close", "event": "1-0", "to": "ada"}),
        ("to", {"action": "take", "event": "1-0", "to": "x" * 101}),
    ]
    for field, note in bad:
        answer = await write(agent, **note)
        assert answer.status_code == 422, (note, answer.text)
        assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert (await listed(agent)).notes == []


async def test_many_writers_at_once_lose_no_note_and_break_no_chain(agent: FakeAgent) -> None:
    await agent.send([1])
    await asyncio.gather(
        *(written(agent, text=f"note {at}") for at in range(4)),
        agent.send([2], user_notes=[UserNote(2, STARTED, f"loop {at}") for at in range(2)]),
    )
    found = await listed(agent)
    assert len({note.text for note in found.notes}) == 6
    assert verify_notes("tiny-1", found.notes).verified
    assert (await agent.get())["step"] == 2


async def test_two_equal_notes_at_one_moment_are_two(
    agent: FakeAgent, repository: RunRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, get = NewNote(text="the same"), repository.get
    before = [copy.deepcopy(await get("tiny-1"))]  # as the second writer has read the run
    first = await notes.add(repository, "tiny-1", new, "ada")

    async def behind(run_id: str) -> RunRecord:
        return before.pop() if before else await get(run_id)

    monkeypatch.setattr(repository, "get", behind)
    second = await notes.add(repository, "tiny-1", new, "ada")
    assert (first.time, first.previous) == (second.time, "")
    assert second.previous == first.hash
    found = (await listed(agent)).notes
    assert found == [second, first]
    assert verify_notes("tiny-1", found).verified


async def test_a_loop_that_notes_each_step_is_told_and_leaves_room_for_people(
    agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "MAX_AGENT_NOTES", 3)
    monkeypatch.setattr(notes, "MAX_NOTES", 1)
    for step in (1, 2, 3):
        await agent.send([step], user_notes=[UserNote(step, STARTED, str(at)) for at in range(2)])
    assert [note.text for note in (await listed(agent)).notes] == ["0", "1", "0"]
    (event,) = await agent.events()
    assert event["message"] == "agent.note() was called more than 3 times: later notes are not stored."
    await written(agent, text="by a person")
    assert (await write(agent, text="too many")).status_code == 409


async def test_a_deleted_run_leaves_no_note(agent: FakeAgent, store_url: str) -> None:
    await written(agent, text="x")
    assert (await agent.client.delete(agent.run)).status_code == 204
    with redis.Redis.from_url(store_url, protocol=2) as store:
        assert [key for key in store.scan_iter() if b"tiny-1" in key] == []
