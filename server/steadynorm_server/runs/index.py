"""Which runs there are, which have not ended, and which changed: three keys beside the runs, in one cluster slot.

They are written after the run itself, which lies in another slot: a process that dies in between leaves them behind it.
What is missing then is found by the sweeper: it compares some listed runs in each pass, and all from which its process
heard since the last one; it looks for all runs by their keys at its start and when Redis came back with another state.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from redis.exceptions import OutOfMemoryError

from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import INDEX, LIVE, TOUCHED

MAX_TOUCHED = 10_000
"""Entries of the stream. Whoever falls further behind reads all runs once."""


class Place(NamedTuple):
    """An entry of the stream of touched runs; of an empty stream, two empty texts."""

    at: str
    run_id: str


class Changed(NamedTuple):
    """What happened since a place."""

    touched: list[str]  # runs, some perhaps more than once
    live: list[str]  # all that have not ended
    registered: int  # how many there are
    place: Place  # the newest one


class RunIndex:
    """Access to the three keys."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def add(self, starts: Mapping[str, float]) -> None:
        """List runs that have not ended, by their starts (Unix seconds). Listed ones keep their place."""
        await self._redis.pipeline(("zadd", INDEX, starts, True), ("zadd", LIVE, starts, True), *map(_touch, starts))

    async def restore(self, starts: Mapping[str, float], live: Collection[str]) -> None:
        """List runs that are missing, by their starts, and among the live ones those that are."""
        lacking = {run_id: start for run_id, start in starts.items() if run_id in live}
        listed = ((INDEX, starts), (LIVE, lacking))
        await self._redis.pipeline(*(("zadd", key, members, True) for key, members in listed if members))

    async def rest(self, *run_ids: str) -> None:
        """These are no longer among the live runs."""
        await self._redis.remove_from_index(LIVE, *run_ids)

    async def touch(self, *run_ids: str) -> None:
        """A list shows something else of these runs now."""
        await self._redis.pipeline(*map(_touch, run_ids))

    async def end(self, *run_ids: str) -> None:
        """These runs have ended."""
        await self._redis.pipeline(("zrem", LIVE, *run_ids), *map(_touch, run_ids))

    async def remove(self, *run_ids: str) -> None:
        """These runs are deleted. Without any run nothing is left."""
        await self._redis.remove_from_index(INDEX, *run_ids)
        _, left = await self._redis.pipeline(("zrem", LIVE, *run_ids), ("zcard", INDEX))
        if not left:
            await self._redis.remove(TOUCHED)
            return
        with contextlib.suppress(OutOfMemoryError):  # deleting frees memory; their number tells that some are gone
            await self.touch(*run_ids)

    async def place(self) -> Place:
        """The newest entry of the stream."""
        return _place((await self._redis.newest_entries(TOUCHED, 1))[0:1])

    async def since(self, place: Place) -> Changed | None:
        """What happened since a place. None: that is not known, the stream does not hold the place.

        It was trimmed, or Redis was restored or failed over to a state from before it.
        """
        entries, live, registered = await self._redis.pipeline(
            ("xrange", TOUCHED, place.at or "-", "+"), ("zrevrange", LIVE, 0, -1), ("zcard", INDEX)
        )
        read = [Place(at.decode(), fields[b"run"].decode()) for at, fields in entries]
        if place.at:
            if not read or read[0] != place:
                return None
            del read[0]
        elif len(read) >= MAX_TOUCHED:
            return None
        newest = read[-1] if read else place
        return Changed([each.run_id for each in read], [each.decode() for each in live], registered, newest)

    async def live_and_lately(self, limit: int) -> tuple[list[str], list[str]]:
        """The live runs, newest first, and the runs that were touched last, in one round trip."""
        live, entries = await self._redis.pipeline(("zrevrange", LIVE, 0, -1), ("xrevrange", TOUCHED, "+", "-", limit))
        lately = dict.fromkeys(fields[b"run"].decode() for _, fields in entries)
        return [run_id.decode() for run_id in live], list(lately)

    async def lately(self, limit: int) -> list[str]:
        """The runs that were touched last."""
        found = await self._redis.newest_entries(TOUCHED, limit)
        return list(dict.fromkeys(fields[b"run"].decode() for _, fields in found))


def _touch(run_id: str) -> tuple[object, ...]:
    return ("xadd", TOUCHED, {"run": run_id}, "*", MAX_TOUCHED)


def _place(newest: Sequence[tuple[str, Mapping[bytes, bytes]]]) -> Place:
    return Place(newest[0][0], newest[0][1][b"run"].decode()) if newest else Place("", "")
