"""The queues of webhooks in Redis: for each webhook one stream with a consumer group, and counts of what is omitted.

A run's own list of events is the truth. Its new ones are appended to the streams in one script with the run's cursor,
and all that waits is claimed as one message: whichever process dies when, each event is in exactly one message. The
message is pending in the group until it is acknowledged; if its claim expires, any process claims it again, under the
same id. Its attempts are the group's delivery count. Keys of all webhooks share one slot of a Redis Cluster.
"""

import json
import math
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event
from steadynorm_contract.webhooks import WebhookEvent
from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import INDEX, LIVE, RunKeys, WebhookKeys
from steadynorm_server.runs.index import RunIndex

SHOWN_EVENTS = 3
"""Of a run and kind the first events are in a message; the others are counted."""
MAX_QUEUE = 10_000
MAX_LINES = 2000
"""Of the audit stream in one queue: all that wait are one message."""
_DUE_IDLE_MS = 4_000_000
"""A pending message is due when it has been idle for this long: more than the longest wait for a retry."""
_EVENTS_PER_RUN = 100
_RUNS_IN_TURN = 500
_RUNS_TOUCHED = 1000


class Unread(msgspec.Struct, frozen=True):
    """A run's events that are in no queue yet, oldest first. `more`: there are further ones."""

    run_id: str
    run: str
    cursor: str  # they were read after it; empty: none was known
    events: list[Event]
    more: bool


class Appended(msgspec.Struct, frozen=True):
    """Result of an append."""

    since: int  # when webhooks were first sent, Unix ms of Redis; no older event is
    dropped: int  # events that are only counted because a queue was full
    now: int  # Unix ms of Redis


class Message(msgspec.Struct, frozen=True):
    """A claimed message: the first events of each run and kind, the number of all by (kind, run's name)."""

    id: str
    attempts: int  # with the one that it was claimed for
    events: list[WebhookEvent]
    counts: Mapping[tuple[str, str], int]
    entries: list[str]
    lines: list[bytes] = []
    """Of the audit stream, as JSON."""


class DeliveryQueue:
    """Access to the queues. Any number of processes may use them at once."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._next = 0  # place in the index of the next run in turn

    async def start_sweep(self, interval_s: float) -> bool:
        """Whether this process is to look at the runs of all now: one process does in each interval."""
        return await self._redis.set_if_absent(WebhookKeys.sweep, round(interval_s * 1000))

    async def sweep_runs(self, oldest: int) -> list[str]:
        """Runs that may have events in no queue: those that have not ended, those that began, ended or changed last,
        and some of all in turn. Removes cursors from before `oldest` (ms), where nothing is read any more."""
        cursors = await self._redis.hash(WebhookKeys.cursors)
        if old := [run_id.decode() for run_id, at in cursors.items() if int(at.partition(b"-")[0]) < oldest]:
            await self._redis.remove_fields(WebhookKeys.cursors, *old)
        some = await self._redis.index(INDEX, self._next, self._next + _RUNS_IN_TURN - 1)
        self._next = self._next + len(some) if len(some) == _RUNS_IN_TURN else 0
        lately = await RunIndex(self._redis).lately(_RUNS_TOUCHED)
        return list(dict.fromkeys([*await self._redis.index(LIVE), *lately, *some]))

    async def unread(self, run_ids: Sequence[str], oldest: int) -> list[Unread]:
        """Those of a few runs that have events in no queue, none older than `oldest` (ms)."""
        stored = await self._redis.fields([(WebhookKeys.cursors, run_id) for run_id in run_ids])
        cursors = [(each or b"").decode() for each in stored]
        begin = f"{oldest}-0"
        streams = [
            (RunKeys(run_id).events, max(cursor or begin, begin, key=_order))
            for run_id, cursor in zip(run_ids, cursors, strict=True)
        ]
        read = await self._redis.entries_of(streams, _EVENTS_PER_RUN)
        new = [each for each in zip(run_ids, cursors, read, strict=True) if each[2]]
        names = await self._redis.fields([(RunKeys(run_id).run, "name") for run_id, *_ in new]) if new else []
        return [
            Unread(
                run_id,
                name.decode(),
                cursor,
                [msgspec.structs.replace(msgspec.json.decode(data[b"event"], type=Event), id=at) for at, data in found],
                len(found) == _EVENTS_PER_RUN,
            )
            for (run_id, cursor, found), name in zip(new, names, strict=True)
            if name is not None  # else it was deleted meanwhile
        ]

    async def append(self, taken: Sequence[tuple[Unread, Mapping[str, Sequence[WebhookEvent]]]]) -> Appended:
        """Append events of a few runs to queues, by webhook."""
        names = sorted({name for _, queues in taken for name in queues})
        keys = [WebhookKeys.cursors, WebhookKeys.since]
        for name in names:
            keys += [WebhookKeys(name).queue, WebhookKeys(name).counts]
        runs = []
        for unread, queues in taken:
            found = [[names.index(name) + 1, *kind] for name, events in queues.items() for kind in _by_kind(events)]
            runs.append(encode_json([unread.run_id, unread.cursor, unread.events[-1].id, found]))
        since, dropped, now = await self._redis.script("webhook_append", keys, SHOWN_EVENTS, MAX_QUEUE, *runs)
        return Appended(int(since), int(dropped), int(now))

    async def append_lines(self, name: str, lines: Sequence[str]) -> int:
        """Append lines of the audit stream to a webhook's queue. Returns for how many there was no room."""
        return int(await self._redis.script("webhook_audit", [WebhookKeys(name).queue], MAX_LINES, *lines))

    async def claim(self, name: str, hold_s: float, merge_s: float, interval_s: float) -> Message | float:
        """Claim a webhook's next message for `hold_s`; else the seconds after which it is worth asking again.

        merge_s: how long the first event waits for others; interval_s: from one new message to the next.
        """
        keys = [WebhookKeys(name).queue, WebhookKeys(name).counts, WebhookKeys(name).pause]
        times = (_DUE_IDLE_MS, _DUE_IDLE_MS - round(hold_s * 1000), round(merge_s * 1000), round(interval_s * 1000))
        answer = await self._redis.script("webhook_claim", keys, secrets.token_hex(16), *times, MAX_QUEUE)
        if answer[0]:
            return math.inf if answer[0] < 0 else answer[0] / 1000
        message_id, counts, events, entries, lines = "", Counter[tuple[str, str]](), [], [], []
        for entry, fields in answer[2]:
            entries.append(entry.decode())
            if fields[0] == b"event":
                events.append(msgspec.json.decode(fields[1], type=WebhookEvent))
                continue
            if fields[0] == b"line":
                lines.append(fields[1])
                continue
            message_id, stored = fields[1].decode(), json.loads(fields[3]) or []  # Lua's empty table is {}
            for field, number in zip(stored[::2], stored[1::2], strict=True):
                kind, _, run = field.split(" ", 2)
                counts[kind, run] += int(number)
        events.sort(key=lambda event: _order(event.id))
        return Message(message_id, int(answer[1]), events, counts, entries, lines)

    async def mark_done(self, name: str, message: Message) -> None:
        """The message was delivered, or given up."""
        await self._redis.script("webhook_outcome", [WebhookKeys(name).queue], "", message.attempts, *message.entries)

    async def schedule_retry(self, name: str, message: Message, wait_s: float) -> None:
        """The message was not delivered and is due again in `wait_s`."""
        idle_ms = _DUE_IDLE_MS - round(wait_s * 1000)
        await self._redis.script(
            "webhook_outcome", [WebhookKeys(name).queue], idle_ms, message.attempts, message.entries[0]
        )

    async def oldest(self, names: Sequence[str]) -> dict[str, float]:
        """When the first event that is not delivered was queued, Unix seconds; of webhooks for which one waits."""
        found = await self._redis.entries_of([(WebhookKeys(name).queue, "-") for name in names], 1)
        return {name: _order(each[0][0])[0] / 1000 for name, each in zip(names, found, strict=True) if each}


def _order(entry: str) -> tuple[int, int]:
    ms, _, number = entry.partition("-")
    return int(ms), int(number)


def _by_kind(events: Sequence[WebhookEvent]) -> list[tuple[str, int, list[str]]]:
    """Of one run's events, by kind: the field of their counts, how many, and the first ones."""
    kinds: dict[str, list[WebhookEvent]] = {}
    for event in events:
        kinds.setdefault(f"{event.kind.value} {event.run_id} {event.run}", []).append(event)
    return [
        (field, len(found), [encode_json(event).decode() for event in found[:SHOWN_EVENTS]])
        for field, found in kinds.items()
    ]
