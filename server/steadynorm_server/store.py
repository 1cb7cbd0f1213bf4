"""Everything about runs, over Redis. Conditional writes are Lua scripts; nothing is remembered between calls.

Methods raise ProblemErrors for what a client did, and redis-py's errors when the store is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.records import (
    Desired,
    Parameter,
    Registered,
    RunFinish,
    RunRegistration,
    TelemetryAnswer,
    TelemetryBatch,
)
from steadynorm_contract.settings import Settings, merge
from steadynorm_contract.views import Change, Event, EventKind
from steadynorm_server.auth import Principal
from steadynorm_server.blocks import Block, unpack
from steadynorm_server.changes import REREAD_S, Changes
from steadynorm_server.checks import check_batch, check_registration
from steadynorm_server.connection import Connection, Timed
from steadynorm_server.history import ROWS, SCALARS, Level
from steadynorm_server.ingest import Addition, Peaks, stalled_event, work_out
from steadynorm_server.keys import CHANGES, INDEX, SCAN_PATTERN, RunKeys, is_run_id, run_id_of
from steadynorm_server.problems import ProblemError, RunNotFound
from steadynorm_server.record import Info, RunRecord

__all__ = ["Store", "StoredChange"]

MAX_EVENTS = 2000
MAX_AUDIT = 10_000
MAX_REASON = 500
_ATTEMPTS = 8


class StoredChange(msgspec.Struct):
    """One entry of the audit as it is stored; what came of it is worked out when it is read."""

    revision: int
    time: float
    actor: str
    reason: str
    before: dict[str, object]
    after: dict[str, object]


class Store:
    """One process's way to the runs. `async with Store(url).opened():` around its use.

    clock: Unix seconds; tests bring their own. timed: makes a context around each round trip.
    """

    def __init__(
        self,
        url: str,
        stalled_after_s: float = 30.0,
        clock: Callable[[], float] = time.time,
        timed: Timed = contextlib.nullcontext,
    ) -> None:
        self.redis = Connection(url, timed)
        self.stalled_after_s = stalled_after_s
        self.clock = clock
        self._changes = Changes(self.redis)
        self._tables: dict[str, list[Parameter]] = {}

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        """Listens to changes meanwhile, closes the connections at the end."""
        try:
            async with self._changes.running():
                yield self
        finally:
            await self.redis.close()

    async def ping(self) -> None:
        """Raises redis-py's error when the store does not answer."""
        await self.redis.ping()

    # Runs

    async def find(self, run_id: str) -> RunRecord:
        """The run. Raises RunNotFound."""
        stored = await self.redis.hash(RunKeys(run_id).run) if is_run_id(run_id) else {}
        if not stored:
            raise RunNotFound(run_id)
        return RunRecord.decode(run_id, stored)

    async def all(self) -> list[RunRecord]:
        """All runs, newest first."""
        ids = await self.redis.index(INDEX)
        stored = await self.redis.hashes([RunKeys(run_id).run for run_id in ids])
        if lost := [run_id for run_id, each in zip(ids, stored, strict=True) if not each]:
            await self.redis.remove_from_index(INDEX, *lost)
        return [RunRecord.decode(run_id, each) for run_id, each in zip(ids, stored, strict=True) if each]

    async def rebuild_index(self) -> int:
        """Find all runs by their keys and index them. Returns their number."""
        ids = [run_id async for key in self.redis.keys(SCAN_PATTERN) if (run_id := run_id_of(key)) is not None]
        started = await self.redis.fields([(RunKeys(run_id).run, "started") for run_id in ids])
        scores = {run_id: float(start) for run_id, start in zip(ids, started, strict=True) if start is not None}
        if scores:
            await self.redis.add_to_index(INDEX, scores)
        return len(scores)

    async def table(self, run: RunRecord) -> list[Parameter]:
        """The run's parameter table."""
        # Kept by its digest, so what is kept can never be wrong, in this process or another.
        if (table := self._tables.get(run.digest)) is None:
            stored = await self.redis.get(RunKeys(run.run_id).parameters)
            if stored is None:
                raise RunNotFound(run.run_id)
            table = msgspec.json.decode(stored, type=list[Parameter])
            while len(self._tables) >= 64:
                self._tables.pop(next(iter(self._tables)))
            self._tables[run.digest] = table
        return table

    async def register(self, registration: RunRegistration, sender: Principal) -> tuple[Registered, bool]:
        """A new run, a new incarnation of a known one, or the same agent again. Returns whether it is new."""
        check_registration(registration)
        sender.require_run(registration.name)
        run_id = registration.run_id or _new_run_id(registration)
        keys, now = RunKeys(run_id), self.clock()
        table = encode_json(registration.parameters)
        info = Info(
            parameters=len(registration.parameters),
            framework=registration.framework,
            agent_version=registration.agent_version,
            world_size=registration.world_size,
            host=registration.host,
            tags=registration.tags,
            allow=registration.allow,
            detail_every=registration.detail_every,
        )
        where = f" on {registration.host}" if registration.host else ""
        began = Event(
            id="",
            kind=EventKind.STARTED,
            step=registration.step,
            time=now,
            message=f"an agent began at step {registration.step}{where}.",
        )
        plan = {
            "name": registration.name,
            "info": encode_json(info).decode(),
            "digest": hashlib.sha256(table).hexdigest(),
            "instance": registration.instance or "",
            "settings": encode_json(registration.settings).decode(),
            "applied_revision": str(registration.applied_revision),
            "step": str(registration.step),
            "now": repr(now),
            "event": encode_json(began).decode(),
            "max_events": MAX_EVENTS,
        }
        answer = await self.redis.script("register", [keys.run, keys.parameters, keys.events], encode_json(plan), table)
        match answer:
            case [b"name", name]:
                raise ProblemError(
                    409, f"run {run_id} belongs to {name.decode()!r}, not to {registration.name!r}. Use another run_id."
                )
            case [b"table"]:
                raise ProblemError(
                    409,
                    f"run {run_id} was registered with another parameter table. Its history would not fit a changed "
                    "model: use another run_id, or delete the run.",
                )
        _, incarnation, acknowledged, revision, settings, created = answer
        # Also for a known run: the process that made it may have died before this line.
        await self.redis.add_to_index(INDEX, {run_id: now})
        desired = Desired(int(revision), msgspec.json.decode(settings, type=Settings))
        return Registered(run_id, int(incarnation), int(acknowledged), desired), created == b"1"

    async def finish(self, run_id: str, finish: RunFinish, sender: Principal) -> None:
        """End a run. Raises a 409 problem when another agent took it over."""
        run = await self.find(run_id)
        sender.require_run(run.name)
        keys, now = RunKeys(run_id), self.clock()
        reason = finish.reason[:MAX_REASON]
        message = (
            f"the run {'was ' if finish.state == 'stopped' else ''}{finish.state}{f': {reason}' if reason else '.'}"
        )
        event = Event(id="", kind=EventKind.ENDED, step=run.step, time=now, message=message)
        incarnation = "" if finish.incarnation is None else str(finish.incarnation)
        answer = await self.redis.script(
            "finish",
            [keys.run, keys.events],
            *(incarnation, finish.state.value, reason, repr(now), encode_json(event), MAX_EVENTS),
        )
        match answer:
            case [b"gone"]:
                raise RunNotFound(run_id)
            case [b"incarnation", known]:
                raise _other_incarnation(run_id, finish.incarnation or 0, int(known))
        await self.redis.publish(CHANGES, run_id)

    async def delete(self, run_id: str) -> None:
        """Remove a run with all its data. Raises RunNotFound."""
        await self.find(run_id)
        keys = RunKeys(run_id)
        streams = [keys.history(level.name) for ladder in (SCALARS, ROWS) for level in ladder.levels]
        await self.redis.remove(
            *(keys.run, keys.parameters, keys.peaks, keys.events, keys.audit, keys.outcomes), *streams
        )
        await self.redis.remove_from_index(INDEX, run_id)
        await self.redis.publish(CHANGES, run_id)

    # Telemetry

    async def ingest(self, run_id: str, batch: TelemetryBatch, sender: Principal) -> TelemetryAnswer:
        """Store a batch once, however often it comes. Raises RunNotFound, 409 for an old incarnation, 422."""
        for _ in range(_ATTEMPTS):
            run = await self.find(run_id)
            sender.require_run(run.name)
            check_batch(batch, run.info.parameters)
            if batch.incarnation != run.incarnation:
                raise _other_incarnation(run_id, batch.incarnation, run.incarnation)
            if batch.sequence <= run.sequence:
                return TelemetryAnswer(run.sequence, run.wanted())
            if (desired := await self._add(run, batch)) is not None:
                return TelemetryAnswer(batch.sequence, desired)
        raise ProblemError(
            503, f"run {run_id} is being written by many at once; try again.", headers={"Retry-After": "1"}
        )

    async def _add(self, run: RunRecord, batch: TelemetryBatch) -> Desired | None:
        """Commit a batch; returns None when the run moved meanwhile."""
        keys, number = RunKeys(run.run_id), run.info.parameters
        expected = {"incarnation": str(run.incarnation), "sequence": str(run.sequence), "stalled": run.stalled}
        peaks = Peaks.decode(await self.redis.get(keys.peaks), number) if batch.rows else None

        async def read(level: Level, after: int) -> list[Block]:
            return [
                unpack(fields[b"block"]) for fields in await self.redis.entries_after(keys.history(level.name), after)
            ]

        async def names() -> Sequence[str]:
            return [parameter.name for parameter in await self.table(run)]

        addition = await work_out(run, batch, peaks, names, read, self.clock(), self.stalled_after_s)
        plan = expected | _plan(addition)
        answer = await self.redis.script(
            "commit",
            [keys.run, keys.events, keys.outcomes, keys.peaks]
            + [keys.history(append.level.name) for append in addition.appends],
            encode_json(plan),
            addition.peaks.encode() if addition.peaks else b"",
            *(append.data for append in addition.appends),
        )
        if answer[0] != b"ok":
            return None
        return Desired(int(answer[1]), msgspec.json.decode(answer[2], type=Settings))

    async def note_silence(self, runs: Sequence[RunRecord]) -> None:
        """Write the `stalled` event of runs that fell silent, unless somebody did."""
        now = self.clock()
        for run in runs:
            if run.silent_s(now) > self.stalled_after_s and not run.stalled:
                keys, event = RunKeys(run.run_id), stalled_event(run, self.stalled_after_s)
                await self.redis.script(
                    "stall", [keys.run, keys.events], repr(run.last_seen), encode_json(event), MAX_EVENTS
                )

    # Settings

    async def desired_after(
        self, run_id: str, sender: Principal, revision: int | None, wait_s: float, stopping: asyncio.Event
    ) -> Desired:
        """The desired settings: at once if newer than `revision`, else when they change, at the latest after wait_s."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        with self._changes.watch(run_id) as changed:
            while True:
                changed.clear()
                run = await self.find(run_id)
                sender.require_run(run.name)
                left = deadline - loop.time()
                if revision is None or run.desired_revision > revision or left <= 0 or stopping.is_set():
                    return run.wanted()
                await _first(changed, stopping, timeout_s=min(left, REREAD_S))

    async def change(self, run_id: str, change: Change, revision: int, actor: str) -> Desired:
        """Change the desired settings, provided that `revision` is the newest. A change of nothing makes no revision.

        Raises RunNotFound, SettingsError, and problems: 409 for an ended run, 412 when somebody was faster.
        """
        run = await self.find(run_id)
        if len(change.reason) > MAX_REASON:
            raise ProblemError(422, f"reason must have at most {MAX_REASON} characters: got {len(change.reason)}.")
        after = merge(run.desired, change.settings)
        if run.state != "running":
            raise _ended(run_id, run.state)
        if run.desired_revision != revision:
            raise _moved(run_id, revision, run.desired_revision)
        if after == run.desired:
            return run.wanted()
        was, now = msgspec.to_builtins(run.desired), msgspec.to_builtins(after)
        changed = [name for name in was if was[name] != now[name]]
        entry = StoredChange(
            revision=revision + 1,
            time=self.clock(),
            actor=actor,
            reason=change.reason,
            before={name: was[name] for name in changed},
            after={name: now[name] for name in changed},
        )
        keys = RunKeys(run_id)
        answer = await self.redis.script(
            "change",
            [keys.run, keys.audit],
            *(str(revision), encode_json(after), encode_json(entry), MAX_AUDIT, CHANGES, run_id),
        )
        match answer:
            case [b"gone"]:
                raise RunNotFound(run_id)
            case [b"ended", state]:
                raise _ended(run_id, state.decode())
            case [b"moved", newest]:
                raise _moved(run_id, revision, int(newest))
        return Desired(revision + 1, after)


def _plan(addition: Addition) -> dict[str, object]:
    fields: Mapping[str, str | bytes] = addition.fields
    plan: dict[str, object] = {
        "set": [text if isinstance(text, str) else text.decode() for pair in fields.items() for text in pair],
        "events": [encode_json(event).decode() for event in addition.events],
        "max_events": MAX_EVENTS,
        "outcomes": [
            {"revision": str(revision), "report": encode_json(outcome).decode()}
            for revision, outcome in addition.outcomes.items()
        ],
        "appends": [
            {
                "level": append.level.name,
                "id": str(append.id),
                "first": append.first,
                "last": append.last,
                "budget": append.level.budget,
                "rolled": append.rolled,
            }
            for append in addition.appends
        ],
    }
    if addition.adopt is not None:
        plan["adopt"] = {"revision": str(addition.adopt[0]), "settings": addition.adopt[1].decode()}
    return plan


async def _first(*wanted: asyncio.Event, timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(event.wait()) for event in wanted]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _new_run_id(registration: RunRegistration) -> str:
    slug = re.sub(r"[^a-z0-9._-]+", "-", registration.name.lower()).strip("._-")[:80] or "run"
    # From the agent's own instance where it has one: a registration whose answer was lost makes no second run.
    seed = f"{registration.name}\n{registration.instance}" if registration.instance else str(time.time_ns())
    return f"{slug}-{hashlib.sha256(seed.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _other_incarnation(run_id: str, given: int, known: int) -> ProblemError:
    why = "another agent took the run over" if given < known else "this server does not know that agent"
    return ProblemError(
        409,
        f"run {run_id} is at incarnation {known}, this is from {given}: {why}. Register again to go on.",
        title="Superseded",
    )


def _moved(run_id: str, given: int, newest: int) -> ProblemError:
    return ProblemError(
        412,
        f"the settings of {run_id} are at revision {newest}, the change was meant for {given}. "
        "Read them again and decide anew.",
    )


def _ended(run_id: str, state: str) -> ProblemError:
    return ProblemError(
        409, f"run {run_id} has ended ({state}): nobody is there to apply a change.", title="Run has ended"
    )
