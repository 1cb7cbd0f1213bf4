"""Desired settings: agents wait for newer ones, operators change them on condition that nobody was faster."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from steadynorm_contract.audit import entry_hash
from steadynorm_contract.changes import Change
from steadynorm_contract.codec import encode_json
from steadynorm_contract.settings import Settings, merge
from steadynorm_contract.telemetry import Desired
from steadynorm_server.auth.tokens import Principal, Role
from steadynorm_server.errors import ProblemError, RunNotFound, invalid
from steadynorm_server.redis.keys import CHANGES, RunKeys, is_run_id
from steadynorm_server.runs.events import MAX_AUDIT, MAX_EVENTS
from steadynorm_server.runs.record import StoredChange

if TYPE_CHECKING:
    from steadynorm_server.runs.repository import RunRepository

__all__ = ["MAX_REASON", "AtomicSideEffect", "change", "check_reason", "ended", "wait_for_settings"]

MAX_REASON = 500
_LONG_WAIT_S = 10.0
_ATTEMPTS = 8


@dataclass(frozen=True)
class AtomicSideEffect:
    """What a change that a schedule or a rule makes settles in the same moment, or is not made: see `orders`."""

    orders: str  # as read: how often schedules and rules were written
    field: str  # of the run's hash
    text: bytes  # it holds then
    event: bytes


async def wait_for_settings(
    repository: RunRepository,
    run_id: str,
    sender: Principal,
    revision: int | None,
    wait_s: float,
    stopping: asyncio.Event,
) -> Desired:
    """The desired settings: at once if newer than `revision`, else when they change, at the latest after wait_s.

    A long wait ends up to a quarter early.
    """
    loop = asyncio.get_running_loop()
    # Who began to wait together, as all do when a server was restarted, shall not all come again together.
    deadline = loop.time() + (wait_s if wait_s < _LONG_WAIT_S else random.uniform(0.75, 1.0) * wait_s)
    agent_waits = wait_s > 0 and Role.AGENT in sender.roles  # so it lives, even where it takes no steps
    listens_until = repository.clock() + wait_s if agent_waits else 0.0
    with repository.changes.subscribe(run_id) as changed:
        while True:
            changed.clear()
            wanted = await _wanted(repository, run_id, sender, listens_until)
            left = deadline - loop.time()
            if revision is None or wanted.revision > revision or left <= 0 or stopping.is_set():
                return wanted
            listens_until = 0.0  # said once
            await _first(changed, stopping, timeout_s=left)


async def _wanted(repository: RunRepository, run_id: str, sender: Principal, listens_until: float = 0.0) -> Desired:
    """The desired settings alone: a small part of what `find` reads. Raises RunNotFound.

    listens_until: Unix seconds, where the run's agent asks, who is there until then.
    """
    if listens_until and sender.runs is not None:
        await _wanted(repository, run_id, sender)  # whose token is bound to other runs says nothing of this one
    answer = is_run_id(run_id) and await repository.redis.script("wanted", [RunKeys(run_id).run], repr(listens_until))
    if not answer:
        raise RunNotFound(run_id)
    name, revision, settings = answer
    sender.require_run(name.decode())
    return Desired(int(revision), msgspec.json.decode(settings, type=Settings))


async def change(
    repository: RunRepository,
    run_id: str,
    wanted: Change,
    revision: int,
    actor: str,
    settling: AtomicSideEffect | None = None,
) -> Desired:
    """Change the desired settings, provided that `revision` is the newest. A change of nothing makes no revision.

    Raises RunNotFound, SettingsError, and problems: 409 for an ended run, 412 when somebody was faster.
    """
    run = await repository.find(run_id)
    check_reason(wanted.reason)
    if run.state != "running":
        raise ended(run_id, run.state)
    if run.desired_revision != revision:
        raise _moved(run_id, revision, run.desired_revision)
    after = merge(run.desired, wanted.settings)
    if after == run.desired:
        return run.wanted()
    was, now = msgspec.to_builtins(run.desired), msgspec.to_builtins(after)
    changed = [name for name in was if was[name] != now[name]]
    entry = StoredChange(
        revision=revision + 1,
        time=repository.clock(),
        actor=actor,
        reason=wanted.reason,
        before={name: was[name] for name in changed},
        after={name: now[name] for name in changed},
    )
    keys = RunKeys(run_id)
    head = run.audit_head
    settled = (settling.orders, settling.field, settling.text, settling.event, MAX_EVENTS) if settling else ()
    for _ in range(_ATTEMPTS):
        entry = _chained(run_id, entry, head)
        answer = await repository.redis.script(
            "change",
            [keys.run, keys.audit, keys.outcomes, keys.events],
            *(str(revision), encode_json(after), encode_json(entry), MAX_AUDIT, CHANGES, run_id, head, entry.hash),
            *settled,
        )
        if answer[0] != b"fork":
            break
        head = answer[1].decode()
    match answer:
        case [b"fork", _]:
            raise ProblemError(
                503, f"run {run_id} is being changed by many at once; try again.", headers={"Retry-After": "1"}
            )
        case [b"gone"]:
            raise RunNotFound(run_id)
        case [b"ended", state]:
            raise ended(run_id, state.decode())
        case [b"orders"]:
            raise ProblemError(412, f"the schedules or rules of {run_id} changed in this moment.")
        case [b"moved", newest]:
            raise _moved(run_id, revision, int(newest))
    if settling is not None:
        repository.news.note(run_id)
    return Desired(revision + 1, after)


def check_reason(reason: str) -> None:
    """Raises a 422 problem for a reason that is too long."""
    if len(reason) > MAX_REASON:
        rule = f"must have at most {MAX_REASON} characters"
        raise invalid("reason", rule, f"reason {rule}: got {len(reason)}.")


def _chained(run_id: str, entry: StoredChange, previous: str) -> StoredChange:
    """The entry with its place in the chain."""
    written = msgspec.json.decode(encode_json(entry), type=StoredChange)  # hashed is what a reader of the store gets
    return msgspec.structs.replace(
        written,
        previous=previous,
        hash=entry_hash(
            previous,
            run_id=run_id,
            revision=written.revision,
            time=written.time,
            actor=written.actor,
            reason=written.reason,
            before=written.before,
            after=written.after,
        ),
    )


async def _first(*wanted: asyncio.Event, timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in wanted]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _moved(run_id: str, given: int, newest: int) -> ProblemError:
    return ProblemError(
        412,
        f"the settings of {run_id} are at revision {newest}, the change was meant for {given}. "
        "Read them again and decide anew.",
    )


def ended(run_id: str, state: str) -> ProblemError:
    """409: there is nobody to change anything for."""
    return ProblemError(
        409, f"run {run_id} has ended ({state}): nobody is there to apply a change.", title="Run has ended"
    )
