"""The runs overview (GET /fleet): all runs with their sparklines and last changes, filtered and sorted."""

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

_TAGS = 200
_MAX_WORDS = 16
_HEALTHS = list(Health)
_FAILED = _HEALTHS.index(Health.NONFINITE) + 1
"""Sort ranks: live runs by their health, with this one between, then those silent for long, then ended ones."""
_OLD = len(_HEALTHS) + 1
_ENDED = _OLD + 1
_LONG_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Read:
    moment: float  # monotonic seconds
    now: float  # Unix seconds
    records: dict[str, RunRecord]
    runs: list[FleetRun]  # newest first
    text: dict[str, str]  # searched text, by run id


class Fleet:
    """Of one process. All runs are read at most every fresh_s seconds, a live run's sparklines every lines_fresh_s."""

    def __init__(self, repository: RunRepository, fresh_s: float = 1.0, lines_fresh_s: float = 8.0) -> None:
        self._repository = repository
        self._fresh_s = fresh_s
        self._queries = RunQueries(repository)
        self._sparklines = SparklineCache(self._queries, lines_fresh_s)
        self._lock = asyncio.Lock()
        self._latest: _Read | None = None

    async def answer(self, listing: RunFilter, sort: FleetSort, search: str, limit: int) -> FleetResponse:
        """The runs that match `listing` (its order and pages are ignored) and contain each searched word.

        Raises a 422 problem for a search of too many words.
        """
        words = list(dict.fromkeys(search.lower().split()))
        if len(words) > _MAX_WORDS:
            message = f"search may hold at most {_MAX_WORDS} different words: got {len(words)}. Remove some."
            raise invalid("search", f"at most {_MAX_WORDS} words", message)
        read = await self._read()
        taken = [
            run for run in read.runs if listing.matches(run) and all(word in read.text[run.run_id] for word in words)
        ]
        failed = [run.last_seen for run in read.runs if _failed_lately(run, read.now)]
        shown = _in_order(taken, sort, read.now)[:limit]
        lines = await self._sparklines.get([read.records[run.run_id] for run in shown])
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
            healths=Counter(run.health.value for run in read.runs if run.state.is_live),
            tags=dict(
                Counter(f"{key}={value}" for run in read.runs for key, value in run.tags.items()).most_common(_TAGS)
            ),
        )

    async def _read(self) -> _Read:
        async with self._lock:  # concurrent requests share one read
            if self._latest is None or time.monotonic() - self._latest.moment >= self._fresh_s:
                records = await self._repository.list()
                summaries = await self._queries.summaries(records)
                changed = await self._changes(summaries)
                runs = [
                    FleetRun(**{name: getattr(each, name) for name in each.__struct_fields__}, last_change=change)
                    for each, change in zip(summaries, changed, strict=True)
                ]
                by_id = {record.run_id: record for record in records}
                text = {run.run_id: _searched_text(run) for run in runs}
                self._latest = _Read(time.monotonic(), self._repository.clock(), by_id, runs, text)
            return self._latest

    async def _changes(self, runs: Sequence[RunSummary]) -> list[LastChange | None]:
        changed = [run for run in runs if run.desired.revision]
        entries = await self._repository.redis.newest([RunKeys(run.run_id).audit for run in changed])
        found: dict[str, LastChange] = {}
        for run, fields in zip(changed, entries, strict=True):
            if fields is None:
                continue  # its agent registered with a revision of another server
            entry = msgspec.json.decode(fields[b"entry"], type=_AuditEntry)
            if entry.revision == run.desired.revision:  # an older one: its agent registered with the newest revision
                found[run.run_id] = LastChange(**msgspec.structs.asdict(entry), state=run.desired.state)
        return [found.get(run.run_id) for run in runs]


class _AuditEntry(msgspec.Struct):
    """The fields of an audit entry that are shown."""

    revision: int
    time: float
    actor: str
    reason: str
    before: dict[str, object]
    after: dict[str, object]


def severity(run: FleetRun, now: float) -> tuple[int, float]:
    """Sort key: runs that need attention first, then the newest; never by what changes with every step."""
    if _failed_lately(run, now):
        return _FAILED, -run.last_seen  # the latest failure first
    if not run.state.is_live:
        return _ENDED + (run.state is not RunState.FAILED), -run.started
    if run.state is RunState.STALLED and now - run.last_seen > _LONG_S:
        return _OLD, -run.started  # not above what happens now
    rank = _HEALTHS.index(run.health)
    return rank + (rank >= _FAILED), -run.started


def _failed_lately(run: FleetRun, now: float) -> bool:
    """`last_seen` of an ended run is when it ended."""
    return run.state is RunState.FAILED and now - run.last_seen <= _LONG_S


def _in_order(runs: list[FleetRun], sort: FleetSort, now: float) -> list[FleetRun]:
    if sort is FleetSort.SEVERITY:
        return sorted(runs, key=lambda run: severity(run, now))
    field, backwards = sort.value.removeprefix("-"), sort.value.startswith("-")
    known = [run for run in runs if _known(getattr(run, field))]
    unknown = [run for run in runs if not _known(getattr(run, field))]

    def place(run: FleetRun) -> tuple[float | str, str]:
        value = getattr(run, field)
        return (value.lower() if isinstance(value, str) else value, run.run_id)

    return sorted(known, key=place, reverse=backwards) + unknown  # runs without a value are last in either order


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _searched_text(run: FleetRun) -> str:
    return " ".join([run.name, run.run_id, *(f"{key}={value}" for key, value in run.tags.items())]).lower()
