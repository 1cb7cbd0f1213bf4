"""Bulk settings change with a preview and per-run conflict detection."""

import asyncio
from fnmatch import fnmatchcase

import msgspec
import numpy as np
from redis.exceptions import RedisError

from steadynorm_contract.bulk import MAX_SELECTED, Bulk, BulkOutcome, BulkResponse, BulkRow, Selection
from steadynorm_contract.changes import Change
from steadynorm_contract.settings import Settings, SettingsError, by_name, merge, resolve_increments
from steadynorm_server.auth.principals import Principal, is_named
from steadynorm_server.errors import ProblemError, RunNotFound, invalid
from steadynorm_server.redis.keys import is_run_id
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.view import LISTED
from steadynorm_server.settings.conditional_writes import check_reason, is_older, not_allowed
from steadynorm_server.settings.service import change

_CONCURRENCY = 256
"""High, so that runs whose primary in a cluster hangs do not hold up the others."""
_GRACE_S = 3.0
"""How long after Redis failed for one run further runs are still tried."""


async def change_bulk(repository: RunRepository, bulk: Bulk, sender: Principal) -> BulkResponse:
    """Preview a bulk change, or make it for the runs whose revision is still that of the preview.

    Each run is changed independently: one that cannot be changed, or for which Redis fails, gets a row that says so.

    Raises SettingsError for a value that is invalid for every run, and problems: 422 for a selection of nothing or of
    too many runs, 428 without the revisions of a preview.
    """
    check_reason(bulk.reason)
    # An invalid value is invalid in every run; a counter that would shrink is reported in the rows of those runs.
    merge(Settings(), resolve_increments(bulk.settings, Settings()))
    if not bulk.dry_run and bulk.revisions is None:
        raise ProblemError(
            428,
            "a bulk change needs the revisions of its preview: send it with `dry_run` true first, then with the "
            "`revisions` of that response.",
        )
    runs = await select(repository, bulk.select, sender.runs)
    rows = [_preview(run, bulk) for run in runs]
    if bulk.dry_run or bulk.revisions is None:
        return BulkResponse(True, rows, _revisions(rows))
    done = await _apply_all(repository, runs, rows, bulk, bulk.revisions, sender.name)
    known = {run.run_id for run in runs}
    gone = [
        BulkRow(run_id=run_id, name="", outcome=BulkOutcome.NOT_FOUND, why="it is no longer among the selected runs.")
        for run_id in bulk.revisions
        if run_id not in known
    ]
    return BulkResponse(False, [*done, *gone], {})


async def select(
    repository: RunRepository, selection: Selection, visible: tuple[str, ...] | None = None
) -> list[RunRecord]:
    """The runs that match, newest first. visible: patterns of the registered names that the sender is bound to.

    Raises 422 problems for a selection of nothing or of too many.
    """
    if selection.name is None and not selection.tags and selection.run_ids is None:
        rule = "must name runs by name, tags or run_ids"
        raise invalid("select", rule, f'select {rule}: got none. Use {{"name": "*"}} to select every run.')
    if selection.run_ids is None:
        run_ids = await _matching(repository, selection, visible)
    elif len(selection.run_ids) > MAX_SELECTED:
        raise _too_many(len(selection.run_ids))
    else:
        run_ids = [each for each in dict.fromkeys(selection.run_ids) if is_run_id(each)]
    runs = await repository.get_many(run_ids)
    name, tags = "*" if selection.name is None else selection.name, selection.tags.items()
    return [
        run
        for run in runs
        if is_named(run.name, visible) and fnmatchcase(run.title, name) and tags <= run.info.tags.items()
    ]


async def _matching(repository: RunRepository, selection: Selection, visible: tuple[str, ...] | None) -> list[str]:
    """Listed runs, newest first. Raises a 422 problem for too many."""
    view = await repository.view()
    chosen = view.named(selection.name) & view.visible(visible) & (view.visibility == LISTED)
    for key, value in selection.tags.items():
        chosen &= view.tagged(key, value)
    if (number := int(chosen.sum())) > MAX_SELECTED:
        raise _too_many(number)
    return view.ids(view.newest_first(np.flatnonzero(chosen)))


def _preview(run: RunRecord, bulk: Bulk) -> BulkRow:
    def row(outcome: BulkOutcome, why: str = "", **more: dict[str, object]) -> BulkRow:
        return BulkRow(
            run_id=run.run_id, name=run.title, outcome=outcome, revision=run.desired_revision, why=why, **more
        )

    if not run.is_live:
        return row(BulkOutcome.ENDED, f"the run has ended ({run.state}).")
    try:
        after = merge(run.desired, resolve_increments(bulk.settings, run.desired), run.info.knobs or [])
    except SettingsError as error:
        return row(BulkOutcome.REJECTED, str(error))
    old, new = by_name(run.desired), by_name(after)
    changed = [name for name in old if old[name] != new[name]]
    if not changed:
        return row(BulkOutcome.UNCHANGED, "it already has these settings.")
    if is_older(run, changed):
        return row(BulkOutcome.REJECTED, "its agent is older than one of these settings.")
    if outside := not_allowed(run, changed):
        allowed = ", ".join(run.info.allow or ()) or "none"
        return row(
            BulkOutcome.REJECTED, f"its agent does not allow changes of {', '.join(outside)}; it allows {allowed}."
        )
    return row(
        BulkOutcome.CHANGE, before={name: old[name] for name in changed}, after={name: new[name] for name in changed}
    )


async def _apply_all(
    repository: RunRepository,
    runs: list[RunRecord],
    rows: list[BulkRow],
    bulk: Bulk,
    revisions: dict[str, int],
    actor: str,
) -> list[BulkRow]:
    """The outcome for each run. Errors of Redis are rows, too: a 503 would not say which runs were changed.

    Raises the first error where no run is known to be changed.
    """
    semaphore, now = asyncio.Semaphore(_CONCURRENCY), asyncio.get_running_loop().time
    failed: list[tuple[float, RedisError]] = []  # when Redis failed for a run, and how

    async def one(run: RunRecord, row: BulkRow) -> BulkRow:
        async with semaphore:
            if failed and now() - failed[0][0] > _GRACE_S and row.outcome is BulkOutcome.CHANGE:
                return msgspec.structs.replace(
                    row, outcome=BulkOutcome.UNKNOWN, why="not tried: Redis did not answer for other runs."
                )
            try:
                return await _apply(repository, run, row, bulk, revisions.get(run.run_id), actor)
            except RedisError as error:
                failed.append((now(), error))
                why = f"Redis did not answer ({type(error).__name__}): read the run again."
                return msgspec.structs.replace(row, outcome=BulkOutcome.UNKNOWN, why=why)

    done = await asyncio.gather(*(one(run, row) for run, row in zip(runs, rows, strict=True)))
    if failed and not any(row.outcome is BulkOutcome.CHANGED for row in done):
        raise failed[0][1]
    return list(done)


async def _apply(
    repository: RunRepository, run: RunRecord, row: BulkRow, bulk: Bulk, revision: int | None, actor: str
) -> BulkRow:
    if row.outcome is not BulkOutcome.CHANGE:
        return row
    if revision is None or revision != run.desired_revision:
        why = (
            "it was not in the preview."
            if revision is None
            else f"it was changed after the preview at revision {revision}."
        )
        return msgspec.structs.replace(row, outcome=BulkOutcome.CONFLICT, why=why)
    try:
        changed = await change(repository, run, Change(dict(row.after), bulk.reason), revision, actor)
    except RunNotFound as gone:
        return msgspec.structs.replace(row, outcome=BulkOutcome.NOT_FOUND, why=gone.detail)
    except ProblemError as problem:
        outcome = BulkOutcome.ENDED if problem.status == 409 else BulkOutcome.CONFLICT
        return msgspec.structs.replace(row, outcome=outcome, why=problem.detail)
    return msgspec.structs.replace(row, outcome=BulkOutcome.CHANGED, revision=changed.revision)


def _revisions(rows: list[BulkRow]) -> dict[str, int]:
    return {row.run_id: row.revision for row in rows if row.outcome is BulkOutcome.CHANGE and row.revision is not None}


def _too_many(number: int) -> ProblemError:
    rule = f"must be at most {MAX_SELECTED} runs"
    return invalid("select", rule, f"select {rule}: got {number}. Split the selection.")
