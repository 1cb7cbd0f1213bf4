"""Watch rules as operators write them: validated, replaced as a whole, listed with their progress."""

import math
import re
import secrets
from collections.abc import Iterator
from functools import partial

import msgspec

from steadynorm_contract.codec import decode_json, encode_json
from steadynorm_contract.conditions import Condition, condition_errors
from steadynorm_contract.settings import FieldError
from steadynorm_contract.watch_rules import MAX_RULES, RuleList, RuleSet, WatchRule
from steadynorm_server import audit_log
from steadynorm_server.automation.rule_evaluation import StoredRule, StoredRules, rules_of, view
from steadynorm_server.errors import ProblemError
from steadynorm_server.runs.record import RunRecord
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings.conditional_writes import (
    MAX_ATTEMPTS,
    compare_and_set,
    contention_error,
    validate_deferred_change,
)

FIELD = "rules"
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_MAX_NUMBER = 10**6
_MAX_REASON = 300  # the audit entry puts the condition before it
_MAX_COOLDOWN = 10**9


def decode(data: bytes) -> RuleSet:
    """A body of PUT. Raises MalformedMessage, and a 422 problem for a field that does not exist."""
    requested = decode_json(data, RuleSet)
    raw = msgspec.json.decode(data)
    errors = list(_unknown(raw, RuleSet))
    for rule in raw["rules"]:
        errors += [*_unknown(rule, WatchRule), *_unknown(rule["when"], Condition)]
    if errors:
        raise ProblemError(422, " ".join(each.message for each in errors[:5]), title="Invalid rule", errors=errors[:5])
    return requested


def _unknown(raw: dict[str, object], kind: type[msgspec.Struct]) -> Iterator[FieldError]:
    """Unknown fields. Without this check a misspelled field would be silently ignored."""
    known = kind.__struct_fields__
    for name in raw:
        if name not in known:
            rule = f"must be one of {', '.join(known)}"
            yield FieldError(name[:60], rule, f"{name[:60]!r} is not a field: it {rule}.")


async def replace(repository: RunRepository, run_id: str, requested: RuleSet, created_by: str) -> RuleList:
    """Replace all rules of a run. A rule that is unchanged retains its progress and its remaining actions.

    Raises RunNotFound, SettingsError, and problems: 409 for an ended run, 412 for another revision, 422.
    """
    for _ in range(MAX_ATTEMPTS):
        run = await repository.get(run_id)
        known = rules_of(run)
        _check(run, requested.rules)
        if requested.revision is not None and requested.revision != known.revision:
            raise ProblemError(
                412,
                f"the rules of {run_id} were changed concurrently: they are at revision {known.revision}, not "
                f"{requested.revision}. Read them again before you replace them.",
            )
        unchanged = {each.rule.id: each for each in known.rules if each.rule in requested.rules}
        rules = [
            unchanged.get(rule.id) or StoredRule(rule, secrets.token_hex(4), created_by, repository.clock())
            for rule in requested.rules
        ]
        what = {"revision": known.revision + 1, "rules": requested.rules}
        line = partial(audit_log.record, "rules", run_id, created_by, name=run.name, entry=what)
        if await compare_and_set(repository, run, FIELD, encode_json(StoredRules(known.revision + 1, rules)), line):
            return list_rules(await repository.get(run_id), repository.clock())
    raise contention_error(run_id)


def list_rules(run: RunRecord, now: float) -> RuleList:
    """All rules of a run, in the order in which they were written."""
    known = rules_of(run)
    return RuleList(known.revision, [view(run, each, now) for each in known.rules])


def encode_updated(run: RunRecord, updated: StoredRule) -> bytes:
    """The field's value with the rule of that id replaced by `updated`."""
    known = rules_of(run)
    rules = [updated if each.rule.id == updated.rule.id else each for each in known.rules]
    return encode_json(StoredRules(known.revision, rules))


def _check(run: RunRecord, rules: list[WatchRule]) -> None:
    errors = list(_errors(rules))
    if errors:
        raise ProblemError(422, " ".join(each.message for each in errors), title="Invalid rule", errors=errors)
    for rule in rules:
        validate_deferred_change(run, rule.settings, rule.reason)


def _errors(rules: list[WatchRule]) -> Iterator[FieldError]:
    def error(field: str, rule: str, value: object) -> FieldError:
        shown = repr(value)
        return FieldError(field, rule, f"{field} {rule}: got {shown if len(shown) <= 60 else shown[:57] + '...'}.")

    if len(rules) > MAX_RULES:
        yield error("rules", f"must be at most {MAX_RULES}", len(rules))
    seen = set()
    for each in rules[:MAX_RULES]:
        if _ID.fullmatch(each.id) is None:
            yield error("id", "must match [a-z0-9][a-z0-9_-]{0,39}", each.id)
        elif each.id in seen:
            yield error("id", "must be unique", each.id)
        seen.add(each.id)
        yield from condition_errors(each.when)
        for field, value, least, most in (
            ("max_actions", each.max_actions, 1, _MAX_NUMBER),
            ("cooldown_steps", each.cooldown_steps, 0, _MAX_COOLDOWN),
        ):
            if not least <= value <= most:
                yield error(field, f"must be a whole number from {least} to {most}", value)
        if not (math.isfinite(each.cooldown_s) and 0 <= each.cooldown_s <= _MAX_COOLDOWN):
            yield error("cooldown_s", f"must be seconds from 0 to {_MAX_COOLDOWN}", each.cooldown_s)
        if len(each.reason) > _MAX_REASON:
            yield error("reason", f"must have at most {_MAX_REASON} characters", each.reason)
