"""Who asked for a rollback: an agent knows only the counter that grew, the audit list who raised it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from steadynorm_contract.telemetry import AgentNote, NoteKind, TelemetryBatch, UserNote
from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.record import StoredChange

_ASKED = re.compile(r"\brequested, rollback_generation ([0-9]{1,15})\b")
_KINDS = (NoteKind.ROLLBACK, NoteKind.ROLLBACK_ADVISED)
_LATEST = 200  # changes among which it is looked for: it is carried out within some steps


@dataclass(frozen=True, slots=True)
class Request:
    """A change that asked for a rollback, as in the audit list."""

    actor: str
    revision: int
    reason: str

    def __str__(self) -> str:
        return f"requested by {self.actor} as revision {self.revision}" + (f" ({self.reason})" if self.reason else "")


async def requests(redis: RedisClient, run_id: str, batch: TelemetryBatch) -> dict[int, Request]:
    """The requests that the notes of a batch are about, by the counter's value. Reads nothing where there is none."""
    wanted = {generation for note in batch.notes if (generation := asked_for(note)) is not None}
    if not wanted:
        return {}
    entries = await redis.newest_entries(RunKeys(run_id).audit, _LATEST)
    return _found([msgspec.json.decode(fields[b"entry"], type=StoredChange) for _, fields in entries], wanted)


def asked_for(note: AgentNote) -> int | None:
    """The counter's value with which what `note` tells of was asked for. None: a detector did."""
    match = _ASKED.search(note.message) if note.kind in _KINDS else None
    return None if match is None else int(match[1])


def named(text: str, known: Mapping[int, Request]) -> str:
    """A sentence of the agent, with who asked in place of the counter."""

    def who(match: re.Match[str]) -> str:
        request = known.get(int(match[1]))
        return match[0] if request is None else str(request)

    return _ASKED.sub(who, text, count=1)


def named_note(note: UserNote, known: Mapping[int, Request]) -> UserNote:
    """A note of the run, if it is the agent's about its rollback."""
    if not known or not note.text.startswith("rolled back from "):
        return note
    return msgspec.structs.replace(note, text=named(note.text, known))


def _found(changes: Sequence[StoredChange], wanted: set[int]) -> dict[int, Request]:
    return {
        generation: Request(change.actor, change.revision, change.reason)
        for change in changes
        if isinstance(generation := change.after.get("rollback_generation"), int) and generation in wanted
    }
