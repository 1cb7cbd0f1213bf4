"""Notes on a run, a step or an incident, and who deals with an incident.

Notes are part of the record of a run: they are never changed or removed, and each is chained to the one before it by a
hash, as the entries of the audit list are.
"""

import enum
from collections.abc import Sequence

import msgspec

from steadynorm_contract.audit import AuditChain, chained_hash
from steadynorm_contract.incidents import IncidentStatus

__all__ = [
    "MAX_NAME_OF_HOLDER",
    "MAX_NOTE_LENGTH",
    "NewNote",
    "Note",
    "NoteAction",
    "NoteList",
    "action_words",
    "verify_notes",
]

MAX_NOTE_LENGTH = 2000
"""Characters of a note."""
MAX_NAME_OF_HOLDER = 100
"""Characters of the name of who takes an incident."""


class NoteAction(enum.StrEnum):
    """What a note does, beside being one. All but `note` need an incident."""

    NOTE = "note"
    TAKE = "take"  # somebody deals with the incident from now on; not possible while somebody else does
    HAND_OVER = "hand_over"  # somebody else does; also how an incident is taken over from its holder
    CLOSE = "close"  # it is dealt with; taking it opens it again


class NewNote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /runs/{run_id}/notes."""

    text: str = ""  # may be empty only beside an action
    step: int | None = None  # null: that of the event, else the run's present one
    event: str | None = None  # id of the event: the incident that the note is about
    action: NoteAction = NoteAction.NOTE
    to: str = ""  # who deals with the incident from now on; empty with `take`: the sender


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of GET /runs/{run_id}/notes. All of it but `id` is hashed, together with the run's id."""

    id: str = ""  # grows with time
    time: float  # Unix seconds
    author: str  # name of the token; `training loop` for one of `agent.note()`
    by_agent: bool = False  # written with an agent's token, or by `agent.note()`
    text: str = ""
    step: int
    event: str | None = None
    action: NoteAction = NoteAction.NOTE
    to: str = ""
    hash: str = ""
    previous: str = ""  # hash of the note before it; empty in the first

    def hash_after(self, previous: str, run_id: str) -> str:
        """The note's hash if it comes after the one with the hash `previous`."""
        unhashed = ("id", "hash", "previous")
        fields = msgspec.to_builtins(self)
        return chained_hash(previous, {"run_id": run_id} | {name: fields[name] for name in fields.keys() - unhashed})


class NoteList(msgspec.Struct, frozen=True, kw_only=True):
    """GET /runs/{run_id}/notes, newest first."""

    notes: list[Note]
    incidents: list[IncidentStatus] = []  # the latest that were taken or closed, newest first
    next: str | None = None  # cursor of older notes; null: there are none
    head: str = ""  # with the first page: hash of the newest note, as the run has it beside its notes


def action_words(note: Note) -> str:
    """What a note does, such as `hands the incident over to bob`; empty where it only says something."""
    match note.action:
        case NoteAction.TAKE:
            return "takes the incident" + (f" for {note.to}" if note.to and note.to != note.author else "")
        case NoteAction.HAND_OVER:
            return f"hands the incident over to {note.to}"
        case NoteAction.CLOSE:
            return "closes the incident"
    return ""


def verify_notes(run_id: str, notes: Sequence[Note], newest: str = "") -> AuditChain:
    """Recompute the hashes of all notes of a run, newest first. `broken_at` is not used: a note has no revision.

    newest: `NoteList.head`; one of them must have it.
    """
    head = ""
    for note in reversed(notes):
        if note.previous != head or note.hash != note.hash_after(head, run_id):
            return AuditChain(verified=False, head=head)
        head = note.hash
    return AuditChain(verified=not newest or any(note.hash == newest for note in notes), head=head)
