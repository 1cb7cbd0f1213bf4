"""The runs overview (GET /fleet): all runs with their sparklines and last changes, filtered and sorted."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from steadynorm_contract.audit import SettingsChange
from steadynorm_contract.fleet import FleetResponse, FleetRun, FleetSort, LastChange
from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.runs import Health, RunState, RunSummary
from steadynorm_contract.scalars import MAX_SCALARS
from steadynorm_server.errors import invalid
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.pagination import RunFilter
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.rows import HEALTHS, STATES, Column
from steadynorm_server.runs.sparklines import SparklineCache
from steadynorm_server.runs.view import LISTED, VISIBILITIES, Chosen, View

_TAGS = 200
_MAX_WORDS = 16


_NAMING = 8
"""Runs whose logged scalars are offered as columns: to read those of all would cost more than the rows."""


@dataclass(slots=True)
class _Shown:
    """Runs that were shown, as they were read from Redis since a moment (monotonic seconds), by id."""

    moment: float
    runs: dict[str, tuple[RunRecord, FleetRun]]


class Fleet:
    """Of one process. Runs are read at most every fresh_s seconds, a live run's sparklines every lines_fresh_s."""

    def __init__(self, repository: RunRepository, fresh_s: float = 1.0, lines_fresh_s: float = 8.0) -> None:
        self._repository = repository
        self._fresh_s = fresh_s
        self._queries = RunQueries(repository)
        self._sparklines = SparklineCache(self._queries, lines_fresh_s)
        self._lock = asyncio.Lock()
        self._shown = _Shown(-math.inf, {})

    async def answer(
        self,
        listing: RunFilter,
        sort: FleetSort,
        search: str,
        limit: int,
        *,
        current: bool = False,
        group: str = "",
        scalars: Sequence[str] = (),
    ) -> FleetResponse:
        """The runs that match `listing` (its order and pages are ignored) and contain each searched word.

        current: only runs that are live or failed lately. group: key of the tag by which they are grouped. scalars:
        logged ones whose newest values the rows have.

        Raises a 422 problem for a search of too many words.
        """
        words = list(dict.fromkeys(search.lower().split()))
        if len(words) > _MAX_WORDS:
            message = f"search may hold at most {_MAX_WORDS} different words: got {len(words)}. Remove some."
            raise invalid("search", f"at most {_MAX_WORDS} words", message)
        await self._refresh()
        view = self._repository.current_view()
        listed = (view.visibility == LISTED) & view.visible(listing.visible)
        named = listing.matching_words(view) & view.holding(words)
        matching = named & listing.matching_now(view)
        taken = matching & view.current if current else matching
        ordered = _in_order(view, np.flatnonzero(taken), sort)
        groups = {}
        if group:
            values = [view.rows.tags[at].get(group, "") for at in ordered]
            groups = _groups(values)
            places = {value: place for place, value in enumerate(groups)}
            ordered = ordered[np.argsort([places[value] for value in values], kind="stable")]
        failed = view.last_seen[listed & view.failed_lately]
        answer = FleetResponse(
            runs=[],
            matching=int(taken.sum()),
            total=int(listed.sum()),
            states=_counts(STATES, view.state[listed]),
            failed_lately=len(failed),
            failed_last=float(failed.max()) if len(failed) else None,
            healths=_counts(HEALTHS, view.health[listed & view.live]),
            tags=view.frequent_tags(listed, _TAGS),
            current=int((listed & view.current).sum()),
            hidden=int((matching & ~taken).sum()),
            archived=int((named & (view.visibility == VISIBILITIES.index(Visibility.ARCHIVED))).sum()),
            deleted=int((named & (view.visibility == VISIBILITIES.index(Visibility.DELETED))).sum()),
            groups=groups,
        )
        rows, names = await self._rows(view.ids(ordered[:limit]), scalars)
        return msgspec.structs.replace(answer, runs=rows, scalars=names)

    async def _refresh(self) -> None:
        moment = time.monotonic()
        if moment - self._shown.moment < self._fresh_s:
            return
        await self._repository.catalogue.refresh()
        if moment - self._shown.moment >= self._fresh_s:  # else another request, which shared the refresh, was first
            self._shown = _Shown(moment, {})

    async def _rows(self, run_ids: Sequence[str], scalars: Sequence[str]) -> tuple[list[FleetRun], list[str]]:
        """Those of the runs that exist, with their sparklines and last changes; and names that the first ones log."""
        shown = self._shown.runs
        async with self._lock:
            if lacking := [run_id for run_id in run_ids if run_id not in shown]:
                records = await self._repository.get_many(lacking)
                summaries = await self._queries.summaries(records)
                changed = await self._changes(summaries)
                for record, each, change in zip(records, summaries, changed, strict=True):
                    fields = {name: getattr(each, name) for name in each.__struct_fields__}
                    shown[record.run_id] = record, FleetRun(**fields, last_change=change)
        found = [shown[run_id] for run_id in run_ids if run_id in shown]
        lines = await self._sparklines.get([record for record, _ in found])
        rows = []
        for record, run in found:
            more: dict[str, Any] = {}
            if (pair := lines.get(run.run_id)) is not None:
                more = {"loss_spark": pair[0], "norm_spark": pair[1]}
            if scalars and record.scalars:
                more["scalars"] = record.logged.newest(scalars)
            rows.append(msgspec.structs.replace(run, **more) if more else run)
        logging = [record for record, _ in found if record.scalars][:_NAMING]
        names = dict.fromkeys(name for record in logging for name in record.logged.names())
        return rows, list(names)[:MAX_SCALARS]

    async def _changes(self, runs: Sequence[RunSummary]) -> list[LastChange | None]:
        changed = [run for run in runs if run.desired.revision]
        entries = await self._repository.redis.newest([RunKeys(run.run_id).audit for run in changed])
        found: dict[str, LastChange] = {}
        for run, fields in zip(changed, entries, strict=True):
            if fields is None:
                continue  # its agent registered with a revision of another server
            entry = msgspec.json.decode(fields[b"entry"], type=SettingsChange)
            if entry.revision == run.desired.revision:  # an older one: its agent registered with the newest revision
                found[run.run_id] = LastChange(**msgspec.structs.asdict(entry), state=run.desired.state)
        return [found.get(run.run_id) for run in runs]


def _groups(values: Sequence[str]) -> dict[str, int]:
    """How many runs have which value of a tag, in the order of their first runs; those without it are last."""
    counts = Counter(values)
    return {value: counts[value] for value in sorted(counts, key=lambda value: not value)}


def _counts(names: Sequence[RunState] | Sequence[Health], codes: Column) -> dict[str, int]:
    return {names[at].value: int(number) for at, number in enumerate(np.bincount(codes)) if number}


def _in_order(view: View, chosen: Chosen, sort: FleetSort) -> Chosen:
    if sort is FleetSort.SEVERITY:
        return view.by_severity(chosen)
    field, backwards = sort.value.removeprefix("-"), sort.value.startswith("-")
    known = chosen if field == "name" else chosen[~np.isnan(view.rows.column(field)[chosen])]
    ordered = view.ascending(known, field, fold=True)
    unknown = view.newest_first(np.setdiff1d(chosen, known))  # runs without a value are last in either order
    return np.concatenate([ordered[::-1] if backwards else ordered, unknown])
