"""Renames, archives, deletes and restores runs, each with an entry of who did so."""

import logging
import math
from functools import partial

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.lifecycle import MAX_GRACE_S, TRAINS_ON, LifecycleChange, RunUpdate
from steadynorm_contract.telemetry import MAX_NAME_LENGTH
from steadynorm_server import audit_log
from steadynorm_server.errors import ProblemError, invalid
from steadynorm_server.runs.lifecycle import Lifecycle
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings.conditional_writes import MAX_ATTEMPTS, check_reason, compare_and_set, contention_error

_FIELD = "lifecycle"
_CHANGES_STORED = 50
_MAX_SKEW_S = 60.0

_log = logging.getLogger(__name__)


async def update(repository: RunRepository, run_id: str, requested: RunUpdate, actor: str) -> None:
    """Rename a run, archive it or list it again. What is so already makes no entry.

    Raises RunNotFound, and problems: 409 for archiving a live run or changing a deleted one, 422.
    """
    check_reason(requested.reason)
    if requested.name is not None:
        _check_name(requested.name)
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        if run.removes_at is not None:
            raise _conflict(run_id, "was deleted: restore it before you change it")
        if requested.archived:
            _require_silent(repository, run, "archive it")
        changed = known = _in_force(run)
        if requested.name is not None:
            title = "" if requested.name == run.name else requested.name
            changed = msgspec.structs.replace(changed, title=title)
        if requested.archived is not None and requested.archived != (run.archived_at is not None):
            changed = msgspec.structs.replace(
                changed, archived_at=_now(repository, run) if requested.archived else None
            )
        if changed == known or await _write(repository, run, changed, actor, requested.reason):
            return
    raise contention_error(run_id)


async def delete(repository: RunRepository, run_id: str, grace_s: float, actor: str, reason: str) -> None:
    """Delete a run so that it is removed after `grace_s` and can be restored until then.

    Raises RunNotFound, and problems: 409 for a live run, 422.
    """
    check_reason(reason)
    if not (math.isfinite(grace_s) and 0 < grace_s <= MAX_GRACE_S):
        rule = f"must be seconds from 0 to {MAX_GRACE_S:.0f}"
        raise invalid("grace", rule, f"grace {rule}: got {grace_s:g}.")
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        _require_silent(repository, run, "delete it")
        now = _now(repository, run)
        changed = msgspec.structs.replace(_in_force(run), deleted_at=now, removes_at=now + grace_s)
        if await _write(repository, run, changed, actor, reason):
            return
    raise contention_error(run_id)


async def restore(repository: RunRepository, run_id: str, actor: str, reason: str) -> None:
    """Bring back a deleted run; one that is not deleted stays as it is. Raises RunNotFound, and a 422 problem."""
    check_reason(reason)
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        changed = msgspec.structs.replace(_in_force(run), deleted_at=None, removes_at=None)
        if run.removes_at is None or await _write(repository, run, changed, actor, reason):
            return
    raise contention_error(run_id)


def _now(repository: RunRepository, run: RunRecord) -> float:
    """Unix seconds, and not before the run's last sign of life: a run that is heard from later is listed again.

    The server that heard it may have a clock that is somewhat ahead. Raises a 409 problem where it is far ahead.
    """
    now = repository.clock()
    if (ahead_s := run.heard_at - now) > _MAX_SKEW_S:
        raise _conflict(
            run.run_id,
            f"was heard from {ahead_s:.0f} s from now, by this server's clock. Set the clocks of the servers right "
            "(`steadynorm doctor` compares them), or wait as long",
        )
    return max(now, run.heard_at)


def _in_force(run: RunRecord) -> Lifecycle:
    """Without an archiving or a deletion that ended when the run's agent was heard from."""
    deleted_at = None if run.removes_at is None else run.lifecycle.deleted_at
    return msgspec.structs.replace(
        run.lifecycle, archived_at=run.archived_at, deleted_at=deleted_at, removes_at=run.removes_at
    )


async def _write(repository: RunRepository, run: RunRecord, changed: Lifecycle, actor: str, reason: str) -> bool:
    """Store `changed` with its entry, unless something was written since `run` was read. Returns whether."""
    before = {"name": run.title, "archived": run.archived_at, "deletes_at": run.removes_at}
    after = {"name": changed.title or run.name, "archived": changed.archived_at, "deletes_at": changed.removes_at}
    names = [name for name in before if before[name] != after[name]]
    entry = LifecycleChange(
        time=repository.clock(),
        actor=actor,
        reason=reason,
        before={name: before[name] for name in names},
        after={name: after[name] for name in names},
    )
    head = run.lifecycle.changes[0].hash if run.lifecycle.changes else ""
    written = msgspec.json.decode(encode_json(entry), type=LifecycleChange)  # hashed as a reader of Redis decodes it
    entry = msgspec.structs.replace(written, previous=head, hash=written.hash_after(head, run.run_id))
    changes = [entry, *run.lifecycle.changes[: _CHANGES_STORED - 1]]
    line = partial(audit_log.record, "lifecycle", run.run_id, actor, name=run.name, entry=entry)
    written_as = encode_json(msgspec.structs.replace(changed, changes=changes))
    if stored := await compare_and_set(repository, run, _FIELD, written_as, line):
        await repository.index.touch(run.run_id)
        _log.warning("run %s: %s → %s by %r", run.run_id, entry.before, entry.after, actor)
    return stored


def _require_silent(repository: RunRepository, run: RunRecord, action: str) -> None:
    """Raises a 409 problem for a run whose agent was heard from lately: what it does must stay in sight."""
    if run.is_live and run.connected(repository.clock(), repository.stalled_after_s):
        stop = f"Stop it first (`steadynorm set {run.run_id} stop=true`), then {action}"
        raise _conflict(run.run_id, f"is live. {stop}. {TRAINS_ON}")


def _conflict(run_id: str, words: str) -> ProblemError:
    return ProblemError(409, f"run {run_id} {words}.", title="Not in this state")


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > MAX_NAME_LENGTH:
        rule = f"must be 1 to {MAX_NAME_LENGTH} characters, not only spaces"
        shown = repr(name) if len(name) <= 60 else f"{len(name)} characters"
        raise invalid("name", rule, f"name {rule}: got {shown}.")
