"""Validates what the types of agents' messages cannot express. Raises 422 problems that name field, rule and value."""

import math
from collections.abc import Iterator, Sequence

from steadynorm_contract.codec import encode_json
from steadynorm_contract.configuration import (
    MAX_CONFIG_BYTES,
    MAX_CONFIG_DEPTH,
    MAX_FACT_LENGTH,
    MAX_FACTS,
    is_too_deep,
)
from steadynorm_contract.knobs import ALL_KNOBS, KNOB_PREFIX, MAX_KNOBS, is_knob, knob_name_problem
from steadynorm_contract.scalars import (
    MAX_SCALAR_GROUPS,
    MAX_SCALAR_RECORDS,
    MAX_SCALARS,
    MAX_SENTENCE_LENGTH,
    MAX_UNIT_LENGTH,
    name_problem,
)
from steadynorm_contract.settings import SETTING_RULES, FieldError
from steadynorm_contract.telemetry import (
    MAX_NAME_LENGTH,
    MAX_PARAMETERS,
    MAX_TAG_NAME_LENGTH,
    MAX_TAGS,
    MAX_TEXT_LENGTH,
    RunRegistration,
    TelemetryBatch,
)
from steadynorm_server.errors import ProblemError
from steadynorm_server.redis.keys import is_run_id

MAX_WHOLE = 2**53 - 1  # the largest that every JSON reader and Lua represent exactly
MAX_CLAIMED_REVISION = 2**52
"""Of one that only an agent knows: operators' changes count on from it."""
MAX_REPORTS = 1000
MAX_COLUMNS = 64


def validate_size(body: bytes) -> None:
    """Raises a 422 problem for a registration with far too many parameters, before it is decoded."""
    # A parameter opens two lists, itself and its shape; a third of the brackets may be in names.
    if body.count(b"[") > 3 * MAX_PARAMETERS:
        _raise([_error("parameters", f"must be at most {MAX_PARAMETERS}", "more")], "Invalid registration")


def validate_registration(registration: RunRegistration) -> None:
    """Raises a 422 problem with every field that breaks its rule."""
    _raise(list(_registration_errors(registration)), "Invalid registration")


def validate_batch(batch: TelemetryBatch, parameters: int) -> None:
    """Raises a 422 problem for an invalid batch of a run with that many parameters."""
    _raise(list(_batch_errors(batch, parameters)), "Invalid telemetry")


def _raise(errors: list[FieldError], title: str) -> None:
    if errors:
        raise ProblemError(422, " ".join(error.message for error in errors), title=title, errors=errors)


def _error(field: str, rule: str, value: object, advice: str = "") -> FieldError:
    shown = repr(value) if not isinstance(value, int) or abs(value) <= MAX_WHOLE else "a number beyond 2**53"
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return FieldError(field, rule, f"{field} {rule}: got {shown}.{' ' if advice else ''}{advice}")


def _whole(field: str, value: int, least: int = 0) -> Iterator[FieldError]:
    if not least <= value <= MAX_WHOLE:
        yield _error(field, f"must be a whole number from {least} to 2**53 - 1", value)


def _text(field: str, value: str, most: int) -> Iterator[FieldError]:
    if len(value) > most:
        yield _error(field, f"must have at most {most} characters", value)


def _registration_errors(run: RunRegistration) -> Iterator[FieldError]:
    if not run.name.strip():
        yield _error("name", "must not be empty", run.name, 'Name the run, such as "gpt-small".')
    yield from _text("name", run.name, MAX_NAME_LENGTH)
    if run.run_id is not None and not is_run_id(run.run_id):
        advice = "Omit it to have one assigned."
        yield _error("run_id", "must match [a-z0-9][a-z0-9._-]{0,99}", run.run_id, advice)
    yield from _whole("applied_revision", run.applied_revision)
    yield from _whole("step", run.step)
    yield from _whole("world_size", run.world_size, 1)
    yield from _whole("detail_every", run.detail_every, 1)
    for field in ("framework", "agent_version", "host"):
        yield from _text(field, getattr(run, field), MAX_TEXT_LENGTH)
    for field in ("instance", "previous_instance"):
        yield from _text(field, getattr(run, field) or "", MAX_TEXT_LENGTH)
    if len(run.tags) > MAX_TAGS or any(
        len(key) > MAX_TAG_NAME_LENGTH or len(value) > MAX_TEXT_LENGTH for key, value in run.tags.items()
    ):
        yield _error("tags", "must be at most 50 of at most 500 characters each", f"{len(run.tags)} tags")
    for field, allowed in (("allow", run.allow or []), ("later_allow", run.later_allow)):
        if unknown := [name for name in allowed if name not in SETTING_RULES and not _names_knobs(name)]:
            yield _error(field, "must name settings", unknown[0], f"Known: {', '.join(SETTING_RULES)}, knob.NAME.")
        if len(allowed) > len(SETTING_RULES) + MAX_KNOBS + 1:
            yield _error(field, f"must be at most {len(SETTING_RULES) + MAX_KNOBS + 1} names", len(allowed))
    yield from _knob_errors(run)
    if (size := len(encode_json(run.config))) > MAX_CONFIG_BYTES:
        yield _error("config", f"must take at most {MAX_CONFIG_BYTES} bytes as JSON", size)
    if is_too_deep(run.config):
        yield _error("config", f"must be nested at most {MAX_CONFIG_DEPTH} deep", "more")
    if len(run.environment) > MAX_FACTS or any(
        len(name) > 100 or len(value) > MAX_FACT_LENGTH for name, value in run.environment.items()
    ):
        rule = f"must be at most {MAX_FACTS} of at most {MAX_FACT_LENGTH} characters each"
        yield _error("environment", rule, f"{len(run.environment)} facts")
    yield from _table_errors(run)


def _names_knobs(name: str) -> bool:
    return name == ALL_KNOBS or (is_knob(name) and knob_name_problem(name.removeprefix(KNOB_PREFIX)) is None)


def _knob_errors(run: RunRegistration) -> Iterator[FieldError]:
    knobs = run.knobs or []
    for knob in knobs:
        if (problem := knob.problem()) is not None:
            yield FieldError("knobs", "must be declared with a name and a range", problem)
            return
        yield from _text("knobs", knob.unit, MAX_UNIT_LENGTH)
        yield from _text("knobs", knob.sentence, MAX_SENTENCE_LENGTH)
    if len({each.name for each in knobs}) < len(knobs):
        yield _error("knobs", "must have different names", f"{len(knobs)} knobs")


def _table_errors(run: RunRegistration) -> Iterator[FieldError]:
    if len(run.parameters) > MAX_PARAMETERS:
        yield _error("parameters", f"must be at most {MAX_PARAMETERS}", f"{len(run.parameters)} parameters")
    seen = set()
    for parameter in run.parameters:
        if not parameter.name or len(parameter.name) > MAX_TEXT_LENGTH:
            yield _error("parameters", "must have names of 1 to 500 characters", parameter.name)
        elif parameter.name in seen:
            yield _error("parameters", "must have different names", parameter.name)
        elif any(not 0 <= size <= MAX_WHOLE for size in parameter.shape) or len(parameter.shape) > 64:
            yield _error(
                "parameters", "must have shapes of whole sizes", f"{parameter.name} {list(parameter.shape)[:8]}"
            )
        elif len(parameter.dtype) > 100:
            yield _error("parameters", "must have dtypes of at most 100 characters", parameter.name)
        else:
            seen.add(parameter.name)
            continue
        return  # one suffices to find the mistake in a table of thousands


def _batch_errors(batch: TelemetryBatch, parameters: int) -> Iterator[FieldError]:
    yield from _whole("incarnation", batch.incarnation, 1)
    yield from _whole("sequence", batch.sequence, 1)
    if batch.scalars is not None:
        yield from _steps("scalars.steps", batch.scalars.steps)
        yield from _columns("scalars.columns", batch.scalars.columns, least=0)
        if not all(map(math.isfinite, batch.scalars.time_values())):
            yield _error("scalars.times", "must be finite Unix seconds", "a NaN or an infinity")
    if (rows := batch.rows) is not None:
        yield from _steps("rows.steps", rows.steps)
        # Without columns a few bytes could claim any number of steps × parameters, for which memory would be allocated.
        yield from _columns("rows.columns", rows.columns, least=1 if rows.steps else 0)
        if rows.parameters != parameters:
            rule = f"must be the {parameters} of the registered table"
            yield _error("rows.parameters", rule, rows.parameters, "Register again after a change of the model.")
    yield from _logged_errors(batch)
    if len(batch.batch_ids) > (most := len(batch.scalars.steps) if batch.scalars else 0):
        yield _error("batch_ids", f"must be at most the {most} of scalars.steps", f"{len(batch.batch_ids)} names")
    if len(batch.applied) > MAX_REPORTS:
        yield _error("applied", f"must be at most {MAX_REPORTS} reports", f"{len(batch.applied)} reports")
    if len(batch.notes) > MAX_REPORTS:
        yield _error("notes", f"must be at most {MAX_REPORTS} notes", f"{len(batch.notes)} notes")
    for note in batch.notes[:MAX_REPORTS]:
        yield from _whole("notes.step", note.step)
        yield from _whole("notes.rank", note.rank)
        if not math.isfinite(note.time):
            yield _error("notes.time", "must be finite Unix seconds", note.time)
    if len(batch.user_notes) > MAX_REPORTS:
        yield _error("user_notes", f"must be at most {MAX_REPORTS} notes", f"{len(batch.user_notes)} notes")
    for text in batch.user_notes[:MAX_REPORTS]:
        yield from _whole("user_notes.step", text.step)
        if not math.isfinite(text.time):
            yield _error("user_notes.time", "must be finite Unix seconds", text.time)
    for report in batch.applied[:MAX_REPORTS]:
        yield from _whole("applied.revision", report.revision)
        yield from _whole("applied.step", report.step)
        if not math.isfinite(report.time):
            yield _error("applied.time", "must be finite Unix seconds", report.time)
    for field in ("produced", "acknowledged", "dropped", "buffered", "errors", "sending_errors", "sinks_dropped"):
        yield from _whole(f"counters.{field}", getattr(batch.counters, field))


def _logged_errors(batch: TelemetryBatch) -> Iterator[FieldError]:
    if len(batch.logged) > MAX_SCALAR_GROUPS:
        yield _error("logged", f"must be at most {MAX_SCALAR_GROUPS} groups", f"{len(batch.logged)} groups")
        return
    if (records := sum(len(group.steps) for group in batch.logged)) > MAX_SCALAR_RECORDS:
        yield _error("logged", f"must be at most {MAX_SCALAR_RECORDS} records", f"{records} records")
    names = [name for group in batch.logged for name in group.names]
    if len(different := {*names, *batch.described}) > MAX_SCALARS:
        yield _error("logged.names", f"must be at most {MAX_SCALARS} different ones", f"{len(different)} names")
        return
    for name in different:
        if (problem := name_problem(name)) is not None:
            yield FieldError("logged.names", "must be names of scalars", problem)
            return  # one suffices
    for group in batch.logged:
        if not group.names or len(set(group.names)) < len(group.names):
            yield _error("logged.names", "must be at least one, and different", list(group.names))
        yield from _steps("logged.steps", group.steps)
        if not all(map(math.isfinite, group.time_values())):
            yield _error("logged.times", "must be finite Unix seconds", "a NaN or an infinity")
    for about in batch.described.values():
        yield from _text("described.unit", about.unit, MAX_UNIT_LENGTH)
        yield from _text("described.sentence", about.sentence, MAX_SENTENCE_LENGTH)


def _columns(field: str, columns: Sequence[str], least: int) -> Iterator[FieldError]:
    if not least <= len(columns) <= MAX_COLUMNS or any(len(name) > 100 for name in columns):
        rule = f"must be {least} to {MAX_COLUMNS} names of at most 100 characters"
        yield _error(field, rule, f"{len(columns)} names")
    elif len(set(columns)) < len(columns):
        yield _error(field, "must have different names", list(columns))


def _steps(field: str, steps: Sequence[int]) -> Iterator[FieldError]:
    if steps and not 0 <= min(steps) <= max(steps) <= MAX_WHOLE:
        wrong = min(steps) if min(steps) < 0 else max(steps)
        yield _error(field, "must be whole numbers from 0 to 2**53 - 1", wrong)
