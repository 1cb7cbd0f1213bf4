"""One change to many runs: shown before it is made, conditional and audited run by run."""

from __future__ import annotations

import asyncio
from fnmatch import fnmatchcase

import msgspec
from redis.exceptions import RedisError

from steadynorm_contract.bulk import MAX_SELECTED, Bulk, BulkOutcome, BulkResponse, BulkRow, Selection
from steadynorm_contract.changes import Change
from steadynorm_contract.settings import Settings, SettingsError, merge, resolve_increments
from steadynorm_server.errors import ProblemError, RunNotFound, invalid
from steadynorm_server.redis.keys import RunKeys, is_run_id
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings.service import change, check_reason

__all__ = ["change_many", "select"]

_AT_ONCE = 256
"""Many, so that runs whose master of a cluster hangs are not in the way of the others."""
_PATIENCE_S = 3.0
"""So long after the store failed for one run, further ones are still begun."""


async def change_many(repository: RunRepository, wanted: Bulk, actor: str) -> BulkResponse:
    """Preview a bulk change, or make it for the runs whose revision is still that of the preview.

    Every run is changed for itself: one that cannot be does not hold up the others, and where the store fails its row
    says so. Raises SettingsError for a value
    that no run can take, and problems: 422 for a selection of nothing or too much, 428 without the preview's revisions.
    """
    check_reason(wanted.reason)
    # What breaks its rule breaks it in every run. A counter that shrinks does so in some, and is told there.
    merge(Settings(), resolve_increments(wanted.settings, Settings()))
    if not wanted.dry_run and wanted.revisions is None:
        raise ProblemError(
            428,
            "a bulk change is made to what was previewed: send it with `dry_run` true first, then with the `revisions` "
            "of that answer.",
        )
    runs = await select(repository, wanted.select)
    rows = [_preview(run, wanted) for run in runs]
    if wanted.dry_run or wanted.revisions is None:
        return BulkResponse(True, rows, _revisions(rows))
    done = await _apply_all(repository, runs, rows, wanted, wanted.revisions, actor)
    known = {run.run_id for run in runs}
    gone = [
        BulkRow(
            run_id=run_id, name="", outcome=BulkOutcome.NOT_FOUND, why="it is not among the selected runs any more."
        )
        for run_id in wanted.revisions
        if run_id not in known
    ]
    return BulkResponse(False, [*done, *gone], {})


async def select(repository: RunRepository, selection: Selection) -> list[RunRecord]:
    """The runs that match, newest first. Raises 422 problems for a selection of nothing or of too many."""
    if selection.name is None and not selection.tags and selection.run_ids is None:
        rule = "must name runs by name, tags or run_ids"
        raise invalid("select", rule, f'select {rule}: got none of them. Use {{"name": "*"}} if you mean every run.')
    if selection.run_ids is not None and len(selection.run_ids) > MAX_SELECTED:
        raise _too_many(len(selection.run_ids))
    found = [run for run in await _candidates(repository, selection) if _matches(run, selection)]
    if len(found) > MAX_SELECTED:
        raise _too_many(len(found))
    return found


async def _candidates(repository: RunRepository, selection: Selection) -> list[RunRecord]:
    if selection.run_ids is None:
        return await repository.all()
    ids = [run_id for run_id in dict.fromkeys(selection.run_ids) if is_run_id(run_id)]
    stored = await repository.redis.hashes([RunKeys(run_id).run for run_id in ids]) if ids else []
    return [RunRecord.decode(run_id, each) for run_id, each in zip(ids, stored, strict=True) if each]


def _matches(run: RunRecord, selection: Selection) -> bool:
    named = selection.name is None or fnmatchcase(run.name, selection.name)
    return named and all(run.info.tags.get(name) == value for name, value in selection.tags.items())


def _preview(run: RunRecord, wanted: Bulk) -> BulkRow:
    def row(outcome: BulkOutcome, why: str = "", **more: dict[str, object]) -> BulkRow:
        return BulkRow(
            run_id=run.run_id, name=run.name, outcome=outcome, revision=run.desired_revision, why=why, **more
        )

    if run.state != "running":
        return row(BulkOutcome.ENDED, f"the run has ended ({run.state}).")
    try:
        after = merge(run.desired, resolve_increments(wanted.settings, run.desired))
    except SettingsError as error:
        return row(BulkOutcome.REJECTED, str(error))
    old, new = msgspec.to_builtins(run.desired), msgspec.to_builtins(after)
    changed = [name for name in old if old[name] != new[name]]
    if not changed:
        return row(BulkOutcome.UNCHANGED, "it has these settings already.")
    if run.info.allow is not None and (outside := [name for name in changed if name not in run.info.allow]):
        allowed = ", ".join(run.info.allow) or "none"
        return row(BulkOutcome.REJECTED, f"its agent takes no change of {', '.join(outside)}; it allows {allowed}.")
    return row(
        BulkOutcome.CHANGE, before={name: old[name] for name in changed}, after={name: new[name] for name in changed}
    )


async def _apply_all(
    repository: RunRepository,
    runs: list[RunRecord],
    rows: list[BulkRow],
    wanted: Bulk,
    revisions: dict[str, int],
    actor: str,
) -> list[BulkRow]:
    """What became of each run. Store errors are rows, too: an answer of 503 would not say which runs are changed.

    Raises the first where none is known to be: then that says all.
    """
    turns, now = asyncio.Semaphore(_AT_ONCE), asyncio.get_running_loop().time
    failed: list[tuple[float, RedisError]] = []  # when the store did, for any run, and how

    async def one(run: RunRecord, row: BulkRow) -> BulkRow:
        async with turns:
            if failed and now() - failed[0][0] > _PATIENCE_S and row.outcome is BulkOutcome.CHANGE:
                return msgspec.structs.replace(
                    row, outcome=BulkOutcome.UNKNOWN, why="not tried: the store did not answer for others."
                )
            try:
                return await _apply(repository, run, row, wanted, revisions.get(run.run_id), actor)
            except RedisError as error:
                failed.append((now(), error))
                why = f"the store did not answer ({type(error).__name__}): read the run again."
                return msgspec.structs.replace(row, outcome=BulkOutcome.UNKNOWN, why=why)

    done = await asyncio.gather(*(one(run, row) for run, row in zip(runs, rows, strict=True)))
    if failed and not any(row.outcome is BulkOutcome.CHANGED for row in done):
        raise failed[0][1]
    return list(done)


async def _apply(
    repository: RunRepository, run: RunRecord, row: BulkRow, wanted: Bulk, revision: int | None, actor: str
) -> BulkRow:
    if row.outcome is not BulkOutcome.CHANGE:
        return row
    if revision is None or revision != run.desired_revision:
        why = "it was not in the preview." if revision is None else f"it was previewed at revision {revision}."
        return msgspec.structs.replace(row, outcome=BulkOutcome.CONFLICT, why=why)
    try:
        made = await change(repository, run.run_id, Change(dict(row.after), wanted.reason), revision, actor)
    except RunNotFound as gone:
        return msgspec.structs.replace(row, outcome=BulkOutcome.NOT_FOUND, why=gone.detail)
    except ProblemError as problem:
        outcome = BulkOutcome.ENDED if problem.status == 409 else BulkOutcome.CONFLICT
        return msgspec.structs.replace(row, outcome=outcome, why=problem.detail)
    return msgspec.structs.replace(row, outcome=BulkOutcome.CHANGED, revision=made.revision)


def _revisions(rows: list[BulkRow]) -> dict[str, int]:
    return {row.run_id: row.revision for row in rows if row.outcome is BulkOutcome.CHANGE and row.revision is not None}


def _too_many(number: int) -> ProblemError:
    rule = f"must be at most {MAX_SELECTED} runs"
    return invalid("select", rule, f"select {rule}: got {number}. Change them in parts.")
