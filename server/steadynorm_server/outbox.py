"""What waits in the store for webhooks: where each run's events were read up to, queues, and messages on their way.

A run's own list of events is the truth. Its new ones go into the queues in one script with the cursor, a queue's first
ones into a message in another: whichever process dies when, each event is in exactly one message. That message is sent
until its receiver has it, under the same id.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.views import Event
from steadynorm_contract.webhooks import WebhookEvent
from steadynorm_server.connection import Connection
from steadynorm_server.keys import INDEX, RunKeys, WebhookKeys

__all__ = ["Lease", "Message", "Outbox", "Unread"]

MAX_QUEUE = 10_000
_AT_ONCE = 200
_EVENTS = 100


class Lease(msgspec.Struct, frozen=True):
    """This process sends. Times by the store's clock, in ms."""

    since: int
    now: int


class Unread(msgspec.Struct, frozen=True):
    """A run's events that are in no queue yet, oldest first. `more`: there are further ones."""

    run_id: str
    run: str
    cursor: str  # they were read after it; empty: none was known
    events: list[Event]
    more: bool


class Message(msgspec.Struct, frozen=True):
    """A message on its way. `due`: when to send it next; `since`: when its first event was queued; Unix seconds."""

    id: str
    body: bytes
    attempts: int
    due: float
    since: float


class Outbox:
    """One process's way to it. `owner` names the process for its lease."""

    def __init__(self, redis: Connection, lease_s: float) -> None:
        self._redis = redis
        self._lease_ms = round(lease_s * 1000)
        self._owner = secrets.token_hex(8)
        self._lease: Lease | None = None
        self._held_until = 0.0  # monotonic; never later than the store's own end of it

    @property
    def lease(self) -> Lease | None:
        """Ours as it was last renewed. None: another process sends, or may by now."""
        return self._lease if time.monotonic() < self._held_until else None

    async def renew(self) -> None:
        """Take the lease where nobody has it, or keep it."""
        keys = [WebhookKeys.lease, WebhookKeys.since]
        asked = time.monotonic()
        mine, since, now = await self._redis.script("webhook_lease", keys, self._owner, self._lease_ms)
        self._lease = Lease(int(since), int(now)) if mine else None
        self._held_until = asked + self._lease_ms / 1000

    async def leave(self) -> None:
        """Give the lease up, if it is ours."""
        self._lease = None
        await self._redis.script("webhook_lease", [WebhookKeys.lease, WebhookKeys.since], self._owner, 0)

    async def pass_on(self, run_ids: Sequence[str]) -> None:
        """Tell the process that sends which runs have new events."""
        if run_ids:
            await self._redis.add_members(WebhookKeys.news, *run_ids)

    async def passed_on(self) -> list[str]:
        """What other processes told."""
        return await self._redis.pop_members(WebhookKeys.news, 10 * _AT_ONCE)

    async def all_runs(self, oldest: int) -> list[str]:
        """All runs; forgets cursors from before `oldest` (ms), where nothing is read any more."""
        cursors = await self._redis.hash(WebhookKeys.cursors)
        if old := [run_id.decode() for run_id, at in cursors.items() if int(at.partition(b"-")[0]) < oldest]:
            await self._redis.remove_fields(WebhookKeys.cursors, *old)
        return await self._redis.index(INDEX)

    async def unread(self, run_ids: Sequence[str], oldest: int) -> list[Unread]:
        """Those of the runs that have events in no queue, none older than `oldest` (ms)."""
        found = []
        for first in range(0, len(run_ids), _AT_ONCE):
            found += await self._unread(run_ids[first : first + _AT_ONCE], oldest)
        return found

    async def _unread(self, run_ids: Sequence[str], oldest: int) -> list[Unread]:
        stored = await self._redis.fields([(WebhookKeys.cursors, run_id) for run_id in run_ids])
        cursors = [(each or b"").decode() for each in stored]
        begin = f"{oldest}-0"
        streams = [
            (RunKeys(run_id).events, max(cursor or begin, begin, key=_order))
            for run_id, cursor in zip(run_ids, cursors, strict=True)
        ]
        read = await self._redis.entries_of(streams, _EVENTS)
        new = [each for each in zip(run_ids, cursors, read, strict=True) if each[2]]
        names = await self._redis.fields([(RunKeys(run_id).run, "name") for run_id, *_ in new]) if new else []
        return [
            Unread(
                run_id,
                name.decode(),
                cursor,
                [_event(at, fields[b"event"]) for at, fields in entries],
                len(entries) == _EVENTS,
            )
            for (run_id, cursor, entries), name in zip(new, names, strict=True)
            if name is not None  # else it was deleted meanwhile
        ]

    async def take(self, unread: Unread, queues: Mapping[str, Sequence[WebhookEvent]]) -> int:
        """Put a run's events into the queues of webhooks, by name. Returns how many old ones had to go for them."""
        keys = [WebhookKeys.cursors, *(WebhookKeys.queue(name) for name in queues)]
        lists = [encode_json([encode_json(event).decode() for event in events]) for events in queues.values()]
        last = unread.events[-1].id
        dropped = await self._redis.script("webhook_take", keys, unread.run_id, unread.cursor, last, MAX_QUEUE, *lists)
        return max(0, int(dropped))

    async def queued(self, name: str, limit: int) -> list[tuple[str, WebhookEvent]]:
        """The first events of a queue, with their entries' ids."""
        (found,) = await self._redis.entries_of([(WebhookKeys.queue(name), "-")], limit)
        return [(at, msgspec.json.decode(fields[b"event"], type=WebhookEvent)) for at, fields in found]

    async def compose(self, name: str, message_id: str, body: bytes, entries: Sequence[str]) -> bool:
        """Make the queue's first entries a message. Returns whether they were still there and no other message was."""
        keys = [WebhookKeys.message(name), WebhookKeys.queue(name)]
        since = entries[0].partition("-")[0]
        return bool(await self._redis.script("webhook_compose", keys, message_id, body, since, *entries))

    async def message(self, name: str) -> Message | None:
        """The webhook's message on its way."""
        stored = await self._redis.hash(WebhookKeys.message(name))
        if not stored:
            return None
        return Message(
            stored[b"id"].decode(),
            stored[b"body"],
            int(stored[b"attempts"]),
            float(stored[b"due"]),
            int(stored[b"since"]) / 1000,
        )

    async def over(self, name: str, message_id: str) -> None:
        """The message was delivered, or given up."""
        await self._redis.script("webhook_outcome", [WebhookKeys.message(name)], message_id, "")

    async def again(self, name: str, message_id: str, due: float) -> None:
        """The message was not delivered and is to be sent again at `due`, Unix seconds."""
        await self._redis.script("webhook_outcome", [WebhookKeys.message(name)], message_id, repr(due))

    async def oldest(self, name: str) -> float | None:
        """When the first event that is not delivered was queued, Unix seconds; None: all are."""
        if (message := await self.message(name)) is not None:
            return message.since
        (found,) = await self._redis.entries_of([(WebhookKeys.queue(name), "-")], 1)
        return int(found[0][0].partition("-")[0]) / 1000 if found else None


def _order(entry: str) -> tuple[int, int]:
    moment, _, number = entry.partition("-")
    return int(moment), int(number)


def _event(at: str, data: bytes) -> Event:
    return msgspec.structs.replace(msgspec.json.decode(data, type=Event), id=at)
