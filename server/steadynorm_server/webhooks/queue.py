"""What waits in the store for webhooks: where each run's events were read up to, queues, and messages on their way.

A run's own list of events is the truth. Its new ones go into the queues in one script with the cursor, all that a queue
holds into a message in two more: whichever process dies when, each event is in exactly one message. That message is
sent until its receiver has it, under the same id. Of a storm a queue holds the first few events of each run and kind,
and counts: however many come, what waits is small, and no run's events keep another's from being told.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event
from steadynorm_contract.webhooks import WebhookEvent
from steadynorm_server.redis.client import Connection
from steadynorm_server.redis.keys import INDEX, RunKeys, WebhookKeys

__all__ = ["OF_A_KIND", "DeliveryQueue", "Lease", "Message", "Unread", "Waiting"]

OF_A_KIND = 3
"""Told one by one of a run and kind, the others by their number; a burst says no more by its hundredth spike."""
MAX_QUEUE = 10_000
_RUNS_A_SCRIPT = 50
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


class Waiting(msgspec.Struct, frozen=True):
    """What one message tells of: the first events of each run and kind, and the number of all by (kind, run's name)."""

    entry: str  # in the store, of the first one
    events: list[WebhookEvent]
    counts: Mapping[tuple[str, str], int]


class Message(msgspec.Struct, frozen=True):
    """A message on its way. `due`: when to send it next; `since`: when its first event was queued; Unix seconds."""

    id: str
    body: bytes
    attempts: int
    due: float
    since: float


class DeliveryQueue:
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

    async def take(self, taken: Sequence[tuple[Unread, Mapping[str, Sequence[WebhookEvent]]]]) -> int:
        """Put runs' events into the queues of webhooks, by name. Returns how many full queues only count."""
        return sum(
            [await self._take(taken[first : first + _RUNS_A_SCRIPT]) for first in range(0, len(taken), _RUNS_A_SCRIPT)]
        )

    async def _take(self, taken: Sequence[tuple[Unread, Mapping[str, Sequence[WebhookEvent]]]]) -> int:
        names = sorted({name for _, queues in taken for name in queues})
        keys = [WebhookKeys.cursors]
        for name in names:
            keys += [WebhookKeys.queue(name), WebhookKeys.counts(name)]
        runs = [
            encode_json(
                [
                    unread.run_id,
                    unread.cursor,
                    unread.events[-1].id,
                    [[names.index(name) + 1, *kind] for name, events in queues.items() for kind in _by_kind(events)],
                ]
            )
            for unread, queues in taken
        ]
        return int(await self._redis.script("webhook_take", keys, OF_A_KIND, MAX_QUEUE, *runs))

    async def gather(self, name: str) -> Waiting | None:
        """Set aside all that waits for a webhook, for its next message; further events wait for the one after it."""
        gathered, counts = WebhookKeys.gathered(name), WebhookKeys.gathered_counts(name)
        keys = [WebhookKeys.message(name), WebhookKeys.queue(name), WebhookKeys.counts(name), gathered, counts]
        await self._redis.script("webhook_gather", keys)
        (found,) = await self._redis.entries_of([(gathered, "-")], MAX_QUEUE)
        numbers: Counter[tuple[str, str]] = Counter()
        for field, number in (await self._redis.hash(counts)).items():
            kind, _, run = field.decode().split(" ", 2)
            numbers[kind, run] += int(number)
        if not found or not numbers:  # or another process made a message of it between the two
            return None
        events = [msgspec.json.decode(fields[b"event"], type=WebhookEvent) for _, fields in found]
        return Waiting(found[0][0], sorted(events, key=lambda event: _order(event.id)), numbers)

    async def compose(self, name: str, message_id: str, body: bytes, waiting: Waiting) -> bool:
        """Make what was gathered a message. Returns whether it was still there and no other message was."""
        keys = [WebhookKeys.message(name), WebhookKeys.gathered(name), WebhookKeys.gathered_counts(name)]
        since = waiting.entry.partition("-")[0]
        return bool(await self._redis.script("webhook_compose", keys, message_id, body, since, waiting.entry))

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
        waiting = [(WebhookKeys.gathered(name), "-"), (WebhookKeys.queue(name), "-")]
        found = [entry for entries in await self._redis.entries_of(waiting, 1) for entry, _ in entries]
        return int(found[0].partition("-")[0]) / 1000 if found else None


def _order(entry: str) -> tuple[int, int]:
    moment, _, number = entry.partition("-")
    return int(moment), int(number)


def _by_kind(events: Sequence[WebhookEvent]) -> list[tuple[str, int, list[str]]]:
    """Of one run's events, by kind: the field of their counts, how many, and the first ones."""
    kinds: dict[str, list[WebhookEvent]] = {}
    for event in events:
        kinds.setdefault(f"{event.kind.value} {event.run_id} {event.run}", []).append(event)
    return [
        (field, len(found), [encode_json(event).decode() for event in found[:OF_A_KIND]])
        for field, found in kinds.items()
    ]


def _event(at: str, data: bytes) -> Event:
    return msgspec.structs.replace(msgspec.json.decode(data, type=Event), id=at)
