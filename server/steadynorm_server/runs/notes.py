"""Notes on runs, steps and incidents: read, written one at a time, and chained to one another by hashes."""

import secrets
from collections.abc import Sequence
from functools import partial

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event
from steadynorm_contract.incidents import IncidentState, IncidentStatus
from steadynorm_contract.notes import MAX_NAME_OF_HOLDER, MAX_NOTE_LENGTH, NewNote, Note, NoteAction, NoteList
from steadynorm_contract.telemetry import UserNote
from steadynorm_server import audit_log
from steadynorm_server.errors import ProblemError, RunNotFound, invalid
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.unanswered import Line, Look

MAX_NOTES = 1000
"""Of a run. None is dropped: a note that was read by others has to stay."""

MAX_AGENT_NOTES = 500
"""Of `agent.note()` in a run, beside these, so that a loop which notes every step leaves room for people."""

MAX_INCIDENTS = 50
"""Latest incidents of a run whose state is known; notes on older ones stay."""

AGENT = "training loop"
"""Author of the notes of `agent.note()`."""

_MAX_STEP = 2**53 - 1
_ATTEMPTS = 8
_STATE = {
    NoteAction.TAKE: IncidentState.TAKEN,
    NoteAction.HAND_OVER: IncidentState.TAKEN,
    NoteAction.CLOSE: IncidentState.CLOSED,
}


async def add(repository: RunRepository, run_id: str, new: NewNote, author: str, by_agent: bool = False) -> Note:
    """Store a note. by_agent: it was sent with an agent's token.

    Raises RunNotFound, and problems: 409 where somebody else deals with the incident or the run is full, 422.
    """
    _check(new)
    this_note = secrets.token_hex(8)
    for _ in range(_ATTEMPTS):
        run = await repository.get(run_id)
        event = await _event(repository, run_id, new.event)
        step = new.step if new.step is not None else event.step if event else run.step
        note = Note(
            time=repository.clock(), author=author, by_agent=by_agent, text=new.text.strip(), step=step,
            event=new.event, action=new.action, to=new.to.strip(),
        )  # fmt: skip
        incidents = run.incident_states()
        if event is not None and new.action is not NoteAction.NOTE:
            incidents = _act(incidents, event, note)
        (note,) = chain(run, [note])
        keys = RunKeys(run_id)
        with repository.unanswered.following(note.hash, *unanswered_notes(repository, run, [note])):
            answer = await repository.redis.script(
                "note",
                [keys.run, keys.notes],
                *(run.notes_head, note.hash, encode_json(note), encode_json(incidents)),
                MAX_AGENT_NOTES if by_agent else MAX_NOTES + MAX_AGENT_NOTES,
                this_note,
            )
        match answer:
            case [b"ok", at]:
                written = msgspec.structs.replace(note, id=at.decode())
                record(run, written)
                return written
            case [b"not_found"]:
                raise RunNotFound(run_id)
            case [b"full"]:
                raise ProblemError(409, f"run {run_id} has as many notes as a run may have, and none is ever dropped.")
    raise ProblemError(
        503, f"too many notes are written to run {run_id} at once; try again.", headers={"Retry-After": "1"}
    )


async def read(repository: RunRepository, run_id: str, limit: int, cursor: str | None = None) -> NoteList:
    """Notes, newest first, those before the cursor. Raises RunNotFound."""
    run = await repository.get(run_id)
    entries = await repository.redis.newest_entries(RunKeys(run_id).notes, limit + 1, cursor)
    return NoteList(
        notes=[
            msgspec.structs.replace(msgspec.json.decode(fields[b"note"], type=Note), id=at)
            for at, fields in entries[:limit]
        ],
        incidents=run.incident_states(),
        next=entries[limit - 1][0] if len(entries) > limit else None,
        head="" if cursor else run.notes_head,
    )


def record(run: RunRecord, note: Note, **more: object) -> None:
    """Write the note's line of the audit stream."""
    audit_log.record("note", run.run_id, note.author, name=run.name, entry=note, **more)


def unanswered_notes(repository: RunRepository, run: RunRecord, notes: Sequence[Note]) -> tuple[Look, list[Line]]:
    """What looks for those of `notes` that are stored, and the lines of all, for `Unanswered.following`."""

    async def look() -> Sequence[Line]:
        newest = await repository.redis.newest_entries(RunKeys(run.run_id).notes, MAX_NOTES)
        stored = b"".join(fields[b"note"] for _, fields in newest)
        return [partial(record, run, note) for note in notes if note.hash.encode() in stored]

    return look, [partial(record, run, note) for note in notes]


def from_agent(run: RunRecord, notes: Sequence[UserNote]) -> tuple[list[Note], bool]:
    """The notes of a batch, chained to the run's, and whether the first one is among them that has no room."""
    room = MAX_AGENT_NOTES - run.progress.user_notes
    full = room >= 0 and len(notes) > room
    taken = [
        Note(time=note.time, author=AGENT, by_agent=True, text=note.text[:MAX_NOTE_LENGTH], step=note.step)
        for note in notes[: max(0, room)]
    ]
    run.progress.user_notes = min(run.progress.user_notes + len(notes), MAX_AGENT_NOTES + 1)
    return chain(run, taken), full


def chain(run: RunRecord, notes: Sequence[Note]) -> list[Note]:
    """The notes with their places in the chain, after the newest one of `run`."""
    head, chained = run.notes_head, []
    for note in notes:
        written = msgspec.json.decode(encode_json(note), type=Note)  # hashed as a reader of Redis decodes it
        chained.append(msgspec.structs.replace(written, previous=head, hash=written.hash_after(head, run.run_id)))
        head = chained[-1].hash
    return chained


def _check(new: NewNote) -> None:
    if new.action is NoteAction.NOTE and not new.text.strip():
        raise invalid("text", "must not be empty", "text must not be empty: a note says something.")
    for field, value, most in (("text", new.text, MAX_NOTE_LENGTH), ("to", new.to, MAX_NAME_OF_HOLDER)):
        if len(value) > most:
            rule = f"must have at most {most} characters"
            raise invalid(field, rule, f"{field} {rule}: got {len(value)}.")
    if new.step is not None and not 0 <= new.step <= _MAX_STEP:
        rule = "must be a whole number from 0 to 2**53 - 1"
        raise invalid("step", rule, f"step {rule}.")
    if new.action is not NoteAction.NOTE and new.event is None:
        rule = "must be the id of the incident's event"
        raise invalid("event", rule, f"event {rule} where action is {new.action.value}: GET events lists them.")
    if new.action is NoteAction.HAND_OVER and not new.to.strip():
        raise invalid("to", "must not be empty", "to must not be empty where action is hand_over: who takes over?")
    if new.to and new.action not in (NoteAction.TAKE, NoteAction.HAND_OVER):
        raise invalid("to", "must be empty", f"to must be empty where action is {new.action.value}.")


async def _event(repository: RunRepository, run_id: str, event_id: str | None) -> Event | None:
    """Raises a 422 problem for one that is not stored."""
    if event_id is None:
        return None
    found = await repository.redis.entry(RunKeys(run_id).events, event_id)
    if found is None:
        rule = "must be the id of an event of this run that is still stored"
        raise invalid("event", rule, f"event {rule}: got {event_id[:60]!r}. GET its events to see them.")
    return msgspec.structs.replace(msgspec.json.decode(found[b"event"], type=Event), id=event_id)


def _act(incidents: Sequence[IncidentStatus], event: Event, note: Note) -> list[IncidentStatus]:
    """The incidents after what `note` does. Raises a 409 problem."""
    before = next((each for each in incidents if each.event == event.id), None)
    by = note.to or note.author
    if (
        note.action is NoteAction.TAKE
        and before is not None
        and before.state is IncidentState.TAKEN
        and before.by != by
    ):
        raise ProblemError(
            409,
            f"{before.by} deals with this incident. To take it over, hand it over to {by}: action hand_over.",
            title="Taken",
        )
    status = IncidentStatus(event=event.id, step=event.step, state=_STATE[note.action], by=by, time=note.time)
    return [status, *(each for each in incidents if each is not before)][:MAX_INCIDENTS]
