"""Watch rules: a run's own scalars change its settings, within a budget and with a lock interval.

    WatchRule(id="low", when=parse_condition("target_min < 0.3 for 200 steps"), settings={"reset_generation": "+1"})
    WatchRule(id="broken", when=parse_condition("nonfinite > 0, 3 times"), settings={"paused": True}, max_actions=1)

A run has none unless somebody gives it some.
"""

from __future__ import annotations

import enum
import re

import msgspec

from steadynorm_contract.changes import expand
from steadynorm_contract.signals import SCALARS

__all__ = [
    "MAX_RULES",
    "WATCHED",
    "Comparison",
    "Condition",
    "RuleList",
    "RuleSet",
    "RuleView",
    "WatchRule",
    "parse_condition",
    "show_condition",
]

MAX_RULES = 20
"""Of one run."""

WATCHED = tuple(each.name for each in SCALARS if not each.is_index)
"""Scalars that a condition can compare."""


class Comparison(enum.StrEnum):
    """Of a step's scalar with a value."""

    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """When a rule acts. Neither of the last two: at the first step.

    for_steps: in so many recorded steps one after another. times: in so many steps, whatever lies between them.
    A step whose scalar is NaN neither counts nor interrupts.
    """

    scalar: str
    comparison: Comparison
    value: float
    for_steps: int | None = None
    times: int | None = None

    @property
    def needed(self) -> int:
        """How many steps it takes."""
        return self.for_steps or self.times or 1


class WatchRule(msgspec.Struct, frozen=True, kw_only=True):
    """What is watched, what is done, and how often at most.

    settings: only what changes; a counter is "+1", one more than it has then; `preset` as in `Change`.
    max_actions: its budget; when that is spent it does nothing any more, until somebody gives it again.
    cooldown_steps, cooldown_s: after an action it neither acts nor counts until so many steps and seconds are over.
    """

    id: str
    when: Condition
    settings: dict[str, object]
    reason: str = ""
    max_actions: int = 1
    cooldown_steps: int = 100
    cooldown_s: float = 0.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", expand(self.settings))


class RuleSet(msgspec.Struct, frozen=True):
    """Body of PUT /runs/{run_id}/rules: all rules of the run. One that is as it was keeps its counts and its budget.

    The server refuses fields that it does not know: a lock with a typing error in it would be none.

    revision: of the list that this replaces, as GET told it; null: whichever is there.
    """

    rules: list[WatchRule]
    revision: int | None = None


class RuleView(msgspec.Struct, frozen=True, kw_only=True):
    """A rule and where it stands."""

    rule: WatchRule
    condition: str  # in words
    created_by: str
    created_at: float  # Unix seconds
    count: int  # steps so far, of `needed`
    needed: int
    actions: int
    actions_left: int
    cooldown_until_step: int | None = None  # null: not locked by steps
    cooldown_until_time: float | None = None  # Unix seconds; null: not locked by time
    last_step: int | None = None  # at which it acted last
    last_revision: int | None = None  # that it made last
    stopped: bool = False  # the store was put back to an older state: give the rule anew, if it shall go on


class RuleList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/rules. `revision` grows whenever somebody changes the rules."""

    revision: int
    rules: list[RuleView]

    def with_rule(self, new: WatchRule) -> list[WatchRule]:
        """These rules, and `new`: in the place of the one of its id, else as the last."""
        rules = [each.rule for each in self.rules]
        place = next((at for at, rule in enumerate(rules) if rule.id == new.id), len(rules))
        return [*rules[:place], new, *rules[place + 1 :]]

    def without(self, rule_id: str) -> list[WatchRule]:
        """These rules but the one of that id."""
        return [each.rule for each in self.rules if each.rule.id != rule_id]


_TEXT = re.compile(
    r"\s*(?P<scalar>[a-z0-9_]+)\s*(?P<comparison><=|>=|<|>)\s*(?P<value>[^\s,]+?)\s*"
    r"(?:,?\s*for\s+(?P<for_steps>[0-9]{1,9})\s+steps?|,?\s*(?P<times>[0-9]{1,9})\s+times?)?\s*"
)


def parse_condition(text: str) -> Condition:
    """`target_min < 0.3 for 200 steps`, `nonfinite > 0, 3 times` or `loss > 20` as a Condition. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        value = float(match["value"])
    except ValueError:
        raise ValueError(
            f"a condition must be SCALAR < VALUE, then `for N steps`, `, N times` or nothing: got {text!r}. "
            'Such as "target_min < 0.3 for 200 steps".'
        ) from None
    return Condition(
        scalar=match["scalar"],
        comparison=Comparison(match["comparison"]),
        value=value,
        for_steps=int(match["for_steps"]) if match["for_steps"] else None,
        times=int(match["times"]) if match["times"] else None,
    )


def show_condition(condition: Condition) -> str:
    """A condition in the words that `parse_condition` takes."""
    text = f"{condition.scalar} {condition.comparison} {condition.value:.10g}"
    if condition.for_steps is not None:
        return f"{text} for {condition.for_steps} step{'s' if condition.for_steps > 1 else ''}"
    if condition.times is not None:
        return f"{text}, {condition.times} time{'s' if condition.times > 1 else ''}"
    return text
