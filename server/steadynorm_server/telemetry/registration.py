"""Registers agents and ends runs."""

import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from steadynorm_contract import __version__
from steadynorm_contract.changes import Change
from steadynorm_contract.codec import encode_json
from steadynorm_contract.configuration import RunConfiguration, flattened
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.knobs import MAX_KNOBS
from steadynorm_contract.scalars import MAX_SCALARS
from steadynorm_contract.settings import Settings, merge
from steadynorm_contract.telemetry import Desired, Registered, RunFinish, RunRegistration
from steadynorm_server import audit_log
from steadynorm_server.auth.principals import Principal
from steadynorm_server.errors import ProblemError, RunNotFound, invalid
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.events import MAX_EVENTS, new_event
from steadynorm_server.runs.record import Info
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.unanswered import Line
from steadynorm_server.settings.service import change
from steadynorm_server.telemetry.quotas import admit
from steadynorm_server.telemetry.service import other_incarnation
from steadynorm_server.telemetry.validation import MAX_CLAIMED_REVISION, validate_registration

_MAX_REASON = 500
_EVENTS_LOOKED_THROUGH = 200  # newest ones, for the start of an agent whose registration was not answered
_MAX_SEARCHED = 2000  # characters: every process holds those of all runs
_DEFAULTS = msgspec.to_builtins(Settings())


async def register(
    repository: RunRepository, registration: RunRegistration, sender: Principal
) -> tuple[Registered, bool]:
    """Register a new run, a new incarnation of a known one, or the same agent again. Returns whether the run is new."""
    validate_registration(registration)
    sender.require_run(registration.name)
    run_id = registration.run_id or _new_run_id(registration)
    await admit(repository, sender, run_id)
    keys, now = RunKeys(run_id), repository.clock()
    table = encode_json(registration.parameters)
    described = {name: getattr(registration, name) for name in Info.__struct_fields__ if name != "parameters"}
    if registration.allow is not None:
        described["allow"] = [*registration.allow, *registration.later_allow]
    in_force = merge(registration.settings, registration.later_settings, registration.knobs or [])
    info = Info(parameters=len(registration.parameters), **described)
    where = f" on {registration.host}" if registration.host else ""
    message = f"an agent started at step {registration.step}{where}."
    started = new_event(EventKind.STARTED, registration.step, now, message)
    plan = {
        "name": registration.name,
        "info": encode_json(info).decode(),
        "digest": hashlib.sha256(table).hexdigest(),
        "instance": registration.instance or "",
        "previous_instance": registration.previous_instance or "",
        "settings": encode_json(in_force).decode(),
        "applied_revision": str(registration.applied_revision),
        "most_claimed": MAX_CLAIMED_REVISION,
        "step": str(registration.step),
        "now": repr(now),
        "event": encode_json(started).decode(),
        "max_events": MAX_EVENTS,
        "searched": _searched(registration),
        "id": secrets.token_hex(8),  # Redis may be asked twice, see the script
    }
    configuration = RunConfiguration(config=registration.config, environment=registration.environment)
    began = {"step": registration.step, "host": registration.host}
    line = partial(audit_log.record, "registered", run_id, sender.name, name=registration.name)
    look = partial(_look, repository, keys, str(plan["id"]), started, began, line)
    key = f"agent {registration.instance or plan['id']} of {run_id}"
    with repository.unanswered.following(key, look, [partial(line, entry=began)]):
        answer = await repository.redis.script(
            "register",
            [keys.run, keys.parameters, keys.events, keys.configuration],
            encode_json(plan),
            table,
            encode_json(configuration),
        )
    # 422 and not 409: on a 409 an agent registers again, which would not help.
    match answer:
        case [b"name", name]:
            message = f"run {run_id} belongs to {name.decode()!r}, not to {registration.name!r}. Use another run_id."
            raise invalid("run_id", "must not belong to a run of another name", message)
        case [b"table"]:
            message = (
                f"run {run_id} was registered with another parameter table. Its history would not match a changed "
                "model: use another run_id, or delete the run."
            )
            raise invalid("parameters", "must be those of the registered run", message)
        case [b"revision"]:
            rule = "must be at most 2**52, or one that the server knows"
            raise invalid("applied_revision", rule, f"applied_revision {rule}: got {registration.applied_revision}.")
    _, incarnation, acknowledged, revision, settings, created, succeeded, previous, adopted = answer
    desired = Desired(int(revision), msgspec.json.decode(settings, type=Settings))
    if b"1" in (created, succeeded, adopted):
        repository.unanswered.forget(key)
        _record(line, began, int(incarnation), adopted == b"1", desired)
    repository.dirty_runs.mark(run_id)
    # Also for a known run: the process that created it may have died before this line.
    await repository.index.add({run_id: now})
    if succeeded == b"1":
        desired = await clear_pause_and_stop(repository, run_id, desired)
    stored = int(previous) if previous else None
    registered = Registered(
        run_id, int(incarnation), int(acknowledged), desired, stored, __version__, _DEFAULTS, MAX_SCALARS, MAX_KNOBS
    )
    return registered, created == b"1"


def _record(line: Line, described: dict[str, object], incarnation: int, adopted: bool, desired: Desired) -> None:
    held = {"adopted": adopted, "revision": desired.revision, "settings": desired.settings}
    line(entry={"incarnation": incarnation, **described, **held})


async def _look(
    repository: RunRepository, keys: RunKeys, plan_id: str, started: Event, described: dict[str, object], line: Line
) -> Sequence[Line]:
    """The line of a registration whose answer was lost, also where its agent has asked again since."""
    names = ("registration", "incarnation", "desired_revision", "desired", "rollback_time")
    ((registration, incarnation, revision, settings, rollback_time),) = await repository.redis.picked([keys.run], names)
    if incarnation is None or revision is None or settings is None:
        return ()
    newest_id, _, flags = (registration or b"").decode().rpartition(" ")
    entries = await repository.redis.newest_entries(keys.events, _EVENTS_LOOKED_THROUGH)
    events = [msgspec.json.decode(fields[b"event"], type=Event) for _, fields in entries]
    # Lua writes numbers with 14 digits.
    starts = (each for each in events if each.kind is EventKind.STARTED and abs(each.time - started.time) < 1e-3)
    found = next(starts, None)
    began, number = found is not None, int(incarnation if found is None or found.value is None else found.value)
    adopted = (rollback_time or b"").decode() == repr(started.time)
    if newest_id == plan_id:
        began, adopted = "1" in flags, flags.endswith("1")
    if not began and not adopted:
        return ()
    desired = Desired(int(revision), msgspec.json.decode(settings, type=Settings))
    return [partial(_record, line, described, number, adopted or number == 1, desired)]


def _searched(registration: RunRegistration) -> str:
    """What the search of lists looks through, beside name and tags: `optimizer.lr=0.001`, the commit."""
    facts = {name: value for name, value in registration.environment.items() if name == "git.commit"}
    pairs = [*facts.items(), *flattened(registration.config)]
    return " ".join(f"{name}={value}" for name, value in pairs if len(value) <= 100)[:_MAX_SEARCHED].lower()


async def clear_pause_and_stop(repository: RunRepository, run_id: str, desired: Desired) -> Desired:
    """Reset `stop` and `paused`, which were meant for the previous process."""
    released = {name: False for name in ("stop", "paused") if getattr(desired.settings, name)}
    if not released:
        return desired
    try:
        requested = Change(dict(released), "a new process resumed the run")
        return await change(repository, await repository.get(run_id), requested, desired.revision, "steadynorm")
    except ProblemError:  # an operator changed the settings concurrently: that change reaches the agent like any other
        return desired


async def finish(repository: RunRepository, run_id: str, finish: RunFinish, sender: Principal) -> None:
    """End a run. Raises a 409 problem when another agent has taken it over."""
    run = await repository.get(run_id)
    sender.require_run(run.name)
    keys, now = RunKeys(run_id), repository.clock()
    reason = finish.reason[:_MAX_REASON]
    message = f"the run {'was ' if finish.state == 'stopped' else ''}{finish.state}{f': {reason}' if reason else '.'}"
    event = new_event(EventKind.ENDED, run.step, now, message)
    incarnation = "" if finish.incarnation is None else str(finish.incarnation)
    answer = await repository.redis.script(
        "finish",
        [keys.run, keys.events],
        *(incarnation, finish.state.value, reason, repr(now), encode_json(event), MAX_EVENTS),
    )
    match answer:
        case [b"not_found"]:
            raise RunNotFound(run_id)
        case [b"incarnation", known]:
            raise other_incarnation(run_id, finish.incarnation or 0, int(known))
    await repository.index.end(run_id)
    repository.dirty_runs.mark(run_id)
    await repository.announce(run_id)


def _new_run_id(registration: RunRegistration) -> str:
    slug = re.sub(r"[^a-z0-9._-]+", "-", registration.name.lower()).strip("._-")[:80] or "run"
    # Derived from the agent's instance where it has one: a registration whose answer was lost makes no second run.
    seed = f"{registration.name}\n{registration.instance}" if registration.instance else str(time.time_ns())
    return f"{slug}-{hashlib.sha256(seed.encode('utf-8', 'replace')).hexdigest()[:8]}"
