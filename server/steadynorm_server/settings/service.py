"""Desired settings: agents wait for newer ones; operators change them, each change conditional on its revision."""

import asyncio
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from steadynorm_contract.audit import entry_hash
from steadynorm_contract.changes import Change
from steadynorm_contract.codec import encode_json
from steadynorm_contract.settings import Settings, by_name, merge
from steadynorm_contract.telemetry import Desired
from steadynorm_server import audit_log
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.errors import AutomationConflict, ProblemError, RunNotFound
from steadynorm_server.redis.keys import CHANGES, RunKeys, is_run_id
from steadynorm_server.runs.events import MAX_AUDIT, MAX_EVENTS
from steadynorm_server.runs.record import RunRecord, StoredChange
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.unanswered import Line, Look
from steadynorm_server.settings.conditional_writes import (
    MAX_ATTEMPTS,
    check_allowed,
    check_reason,
    contention_error,
    run_ended,
)

_LONG_WAIT_S = 10.0
_LOOKED_THROUGH = 100  # newest entries, for one whose answer was lost


@dataclass(frozen=True)
class AtomicSideEffect:
    """What a schedule's or a rule's change writes together with it, in one script: both happen or neither."""

    field: str  # of the run's hash
    value: bytes
    event: bytes
    line: Line | None = None
    """Of the audit stream, after that of the change."""


async def wait_for_settings(
    repository: RunRepository,
    run_id: str,
    sender: Principal,
    revision: int | None,
    wait_s: float,
    stopping: asyncio.Event,
) -> Desired:
    """The desired settings: at once if newer than `revision`, else when they change or wait_s have passed.

    A long wait ends up to a quarter early.
    """
    loop = asyncio.get_running_loop()
    # Jitter: agents that began to wait together, as all do after a restart of the server, do not return together.
    deadline = loop.time() + (wait_s if wait_s < _LONG_WAIT_S else random.uniform(0.75, 1.0) * wait_s)
    agent_polls = wait_s > 0 and Role.AGENT in sender.roles  # so it is alive, even where it takes no steps
    poll_expires_at = repository.clock() + wait_s if agent_polls else 0.0
    with repository.changes.subscribe(run_id) as changed:
        while True:
            changed.clear()
            desired = await _current_settings(repository, run_id, sender, poll_expires_at)
            left_s = deadline - loop.time()
            if revision is None or desired.revision > revision or left_s <= 0 or stopping.is_set():
                return desired
            poll_expires_at = 0.0  # recorded already
            await _wait_for_any(changed, stopping, timeout_s=left_s)


async def _current_settings(
    repository: RunRepository, run_id: str, sender: Principal, poll_expires_at: float = 0.0
) -> Desired:
    """The desired settings alone, a small part of the run's hash. Raises RunNotFound.

    poll_expires_at: Unix seconds until which the run's agent polls; 0 where nothing is to be recorded.
    """
    if poll_expires_at and sender.runs is not None:
        await _current_settings(repository, run_id, sender)  # a token bound to other runs must not touch this one
    if not is_run_id(run_id):
        raise RunNotFound(run_id)
    answer = await repository.redis.script("desired_settings", [RunKeys(run_id).run], repr(poll_expires_at))
    if not answer:
        raise RunNotFound(run_id)
    name, revision, settings = answer
    sender.require_run(name.decode())
    if poll_expires_at:
        repository.hear(run_id)  # it may have been silent for days
    return Desired(int(revision), msgspec.json.decode(settings, type=Settings))


async def change(
    repository: RunRepository,
    run: RunRecord,
    requested: Change,
    revision: int,
    actor: str,
    side_effect: AtomicSideEffect | None = None,
) -> Desired:
    """Change the desired settings of `run`, as it was just read, provided that `revision` is still the newest.

    A change without any difference makes no revision. side_effect: written if `run.automation_version` still holds.

    Raises RunNotFound, SettingsError, and problems: 409 for an ended run, 412 for another revision, 422 for what the
    run's agent does not allow.
    """
    check_reason(requested.reason)
    if not run.is_live:
        raise run_ended(run.run_id, run.state)
    if run.desired_revision != revision:
        raise revision_conflict(run.run_id, revision, run.desired_revision)
    settings = merge(run.desired, requested.settings, run.info.knobs or [])
    if settings == run.desired:
        return run.desired_settings()
    check_allowed(run, settings)
    before, after = by_name(run.desired), by_name(settings)
    changed = [name for name in before if before[name] != after[name]]
    entry = StoredChange(
        revision=revision + 1,
        time=repository.clock(),
        actor=actor,
        reason=requested.reason,
        before={name: before[name] for name in changed},
        after={name: after[name] for name in changed},
    )
    await _store(repository, run, settings, entry, side_effect)
    if side_effect is not None:
        repository.dirty_runs.mark(run.run_id)
    return Desired(revision + 1, settings)


async def _store(
    repository: RunRepository,
    run: RunRecord,
    settings: Settings,
    entry: StoredChange,
    side_effect: AtomicSideEffect | None,
) -> None:
    keys, head, expected = RunKeys(run.run_id), run.audit_head, entry.revision - 1
    this_change = secrets.token_hex(8)
    extra: tuple[str | bytes | int, ...] = ()
    if side_effect is not None:
        extra = (run.automation_version, side_effect.field, side_effect.value, side_effect.event, MAX_EVENTS)
    for _ in range(MAX_ATTEMPTS):
        entry = _chained(run.run_id, entry, head)
        lines: list[Line] = [partial(audit_log.record, "settings", run.run_id, entry.actor, name=run.name, entry=entry)]
        if side_effect is not None and side_effect.line is not None:
            lines.append(side_effect.line)
        with repository.unanswered.following(entry.hash, _look(repository, keys.audit, entry, lines), lines):
            answer = await repository.redis.script(
                "change",
                [keys.run, keys.audit, keys.outcomes, keys.events],
                *(str(expected), encode_json(settings), encode_json(entry), MAX_AUDIT, CHANGES, run.run_id),
                *(head, entry.hash, this_change, *extra),
            )
        match answer:
            case [b"ok"]:
                for line in lines:
                    line()
                return
            case [b"not_found"]:
                raise RunNotFound(run.run_id)
            case [b"ended", state]:
                raise run_ended(run.run_id, state.decode())
            case [b"automation_conflict"]:
                raise AutomationConflict(run.run_id)
            case [b"conflict", newest]:
                raise revision_conflict(run.run_id, expected, int(newest))
            case [b"audit_head", newest]:
                head = newest.decode()
    raise contention_error(run.run_id)


def _look(repository: RunRepository, audit: str, entry: StoredChange, lines: Sequence[Line]) -> Look:
    async def look() -> Sequence[Line]:
        newest = await repository.redis.newest_entries(audit, _LOOKED_THROUGH)
        return lines if any(entry.hash.encode() in fields[b"entry"] for _, fields in newest) else ()

    return look


def _chained(run_id: str, entry: StoredChange, previous: str) -> StoredChange:
    """The entry with its place in the hash chain."""
    written = msgspec.json.decode(encode_json(entry), type=StoredChange)  # hashed as a reader of Redis decodes it
    return msgspec.structs.replace(written, previous=previous, hash=entry_hash(previous, run_id, written))


async def _wait_for_any(*events: asyncio.Event, timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def revision_conflict(run_id: str, given: int, newest: int) -> ProblemError:
    """412: a change is based on a revision that is not the newest one."""
    return ProblemError(
        412,
        f"the settings of {run_id} were changed concurrently: they are at revision {newest}, not {given}. "
        "Read them again before you change them.",
    )
