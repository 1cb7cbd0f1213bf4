"""The fleet: all runs with their sparklines and last changes, filtered and in order. What GET /fleet answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from steadynorm_contract.fleet import FleetResponse, FleetRun, FleetSort, LastChange
from steadynorm_contract.runs import Health, RunState, RunSummary
from steadynorm_server.errors import invalid
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.pagination import RunFilter
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.sparklines import SparklineCache

__all__ = ["Fleet", "trouble"]

LIVE = (RunState.RUNNING, RunState.STALLED)
_TAGS = 200
_MOST_WORDS = 16
_HEALTHS = list(Health)
_FAILED = _HEALTHS.index(Health.NONFINITE) + 1
"""Ranks: what trains by its health, with this one between, then what was silent for long, then what ended."""
_OLD = len(_HEALTHS) + 1
_ENDED = _OLD + 1
_LONG_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Read:
    moment: float  # monotonic seconds
    now: float  # Unix seconds
    records: dict[str, RunRecord]
    runs: list[FleetRun]  # newest first
    words: dict[str, str]  # what a search looks into, by run id


class Fleet:
    """Of one process. All runs are read at most every fresh_s seconds, a live run's lines every lines_fresh_s."""

    def __init__(self, repository: RunRepository, fresh_s: float = 1.0, lines_fresh_s: float = 8.0) -> None:
        self._store = repository
        self._fresh_s = fresh_s
        self._reader = RunQueries(repository)
        self._sparks = SparklineCache(self._reader, lines_fresh_s)
        self._reading = asyncio.Lock()
        self._last: _Read | None = None

    async def answer(self, listing: RunFilter, sort: FleetSort, search: str, limit: int) -> FleetResponse:
        """The runs that `listing` takes (its order and pages are not looked at) and that hold each searched word.

        Raises a 422 problem for a search of more words than anybody types: each is looked for in all runs.
        """
        words = list(dict.fromkeys(search.lower().split()))
        if len(words) > _MOST_WORDS:
            message = f"search may hold at most {_MOST_WORDS} different words: got {len(words)}. Leave some out."
            raise invalid("search", f"at most {_MOST_WORDS} words", message)
        read = await self._read()
        taken = [
            run for run in read.runs if listing.takes(run) and all(word in read.words[run.run_id] for word in words)
        ]
        failed = [run.last_seen for run in read.runs if _failed_lately(run, read.now)]
        shown = _in_order(taken, sort, read.now)[:limit]
        lines = await self._sparks.of([read.records[run.run_id] for run in shown])
        return FleetResponse(
            runs=[
                msgspec.structs.replace(run, loss_spark=pair[0], norm_spark=pair[1])
                if (pair := lines.get(run.run_id))
                else run
                for run in shown
            ],
            matching=len(taken),
            total=len(read.runs),
            states=Counter(run.state.value for run in read.runs),
            failed_lately=len(failed),
            failed_last=max(failed, default=None),
            healths=Counter(run.health.value for run in read.runs if run.state in LIVE),
            tags=dict(
                Counter(f"{key}={value}" for run in read.runs for key, value in run.tags.items()).most_common(_TAGS)
            ),
        )

    async def _read(self) -> _Read:
        async with self._reading:  # ten who ask together cost the store as much as one
            if self._last is None or time.monotonic() - self._last.moment >= self._fresh_s:
                records = await self._store.all()
                summaries = await self._reader.summaries(records)
                changed = await self._changes(summaries)
                runs = [
                    FleetRun(**{name: getattr(each, name) for name in each.__struct_fields__}, last_change=change)
                    for each, change in zip(summaries, changed, strict=True)
                ]
                by_id = {record.run_id: record for record in records}
                words = {run.run_id: _words(run) for run in runs}
                self._last = _Read(time.monotonic(), self._store.clock(), by_id, runs, words)
            return self._last

    async def _changes(self, runs: Sequence[RunSummary]) -> list[LastChange | None]:
        changed = [run for run in runs if run.desired.revision]
        entries = await self._store.redis.newest([RunKeys(run.run_id).audit for run in changed])
        found: dict[str, LastChange] = {}
        for run, fields in zip(changed, entries, strict=True):
            if fields is None:
                continue  # its agent brought the revision along from another server
            written = msgspec.json.decode(fields[b"entry"], type=_Written)
            # Of an older entry nothing is said: its agent brought the newest revision along.
            if written.revision == run.desired.revision:
                found[run.run_id] = LastChange(**msgspec.structs.asdict(written), state=run.desired.state)
        return [found.get(run.run_id) for run in runs]


class _Written(msgspec.Struct):
    """Of an audit entry what the fleet shows."""

    revision: int
    time: float
    actor: str
    reason: str
    before: dict[str, object]
    after: dict[str, object]


def trouble(run: FleetRun, now: float) -> tuple[int, float]:
    """Sorts the run that needs somebody first. Within a kind the newest; never by what changes with every step."""
    if _failed_lately(run, now):
        return _FAILED, -run.last_seen  # its end is what somebody has to know of
    if run.state not in LIVE:
        return _ENDED + (run.state is not RunState.FAILED), -run.started
    if run.state is RunState.STALLED and now - run.last_seen > _LONG_S:
        return _OLD, -run.started  # whoever wanted to know does: it shall not stand above what happens now
    rank = _HEALTHS.index(run.health)
    return rank + (rank >= _FAILED), -run.started


def _failed_lately(run: FleetRun, now: float) -> bool:
    """An ended run was seen last when it ended."""
    return run.state is RunState.FAILED and now - run.last_seen <= _LONG_S


def _in_order(runs: list[FleetRun], sort: FleetSort, now: float) -> list[FleetRun]:
    if sort is FleetSort.SEVERITY:
        return sorted(runs, key=lambda run: trouble(run, now))
    field, backwards = sort.value.removeprefix("-"), sort.value.startswith("-")
    known = [run for run in runs if _known(getattr(run, field))]
    unknown = [run for run in runs if not _known(getattr(run, field))]

    def place(run: FleetRun) -> tuple[float | str, str]:
        value = getattr(run, field)
        return (value.lower() if isinstance(value, str) else value, run.run_id)

    return sorted(known, key=place, reverse=backwards) + unknown  # a dash is neither high nor low


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _words(run: FleetRun) -> str:
    return " ".join([run.name, run.run_id, *(f"{key}={value}" for key, value in run.tags.items())]).lower()
