"""Watch rules: a condition on a run's scalars changes its settings, with a limit on actions and a cooldown.

    WatchRule(id="low", when=parse_condition("target_min < 0.3 for 200 steps"), settings={"reset_generation": "+1"})
    WatchRule(id="broken", when=parse_condition("nonfinite > 0, 3 times"), settings={"paused": True}, max_actions=1)

A run has no rules by default.
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
"""Most rules of one run."""

WATCHED = tuple(each.name for each in SCALARS if not each.is_index)
"""Scalars that a condition can compare."""


class Comparison(enum.StrEnum):
    """Operator between a scalar and a value."""

    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """When a rule acts: by default at the first step that meets the comparison.

    for_steps: after so many consecutive recorded steps. times: after so many steps, not necessarily consecutive.
    A step whose scalar is NaN neither counts nor interrupts.
    """

    scalar: str
    comparison: Comparison
    value: float
    for_steps: int | None = None
    times: int | None = None

    @property
    def needed(self) -> int:
        """Steps that must meet the comparison."""
        return self.for_steps or self.times or 1


class WatchRule(msgspec.Struct, frozen=True, kw_only=True):
    """A condition and the change that it makes.

    settings: only what changes; counters as increments such as "+1", resolved when the rule acts; `preset` as in
    `Change`. max_actions: after so many actions the rule stays inactive until it is saved again. cooldown_steps,
    cooldown_s: after an action it neither acts nor counts until both have passed.
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
    """Body of PUT /runs/{run_id}/rules: all rules of the run. An unchanged rule keeps its counts.

    Unknown fields are rejected, so that a misspelled cooldown is not ignored.

    revision: of the list that this replaces, as GET returned it; null: unconditional.
    """

    rules: list[WatchRule]
    revision: int | None = None


class RuleView(msgspec.Struct, frozen=True, kw_only=True):
    """A rule and its progress."""

    rule: WatchRule
    condition: str  # as text, see `parse_condition`
    created_by: str
    created_at: float  # Unix seconds
    count: int  # steps so far, of `needed`
    needed: int
    actions: int
    actions_left: int
    cooldown_until_step: int | None = None  # null: no cooldown by steps
    cooldown_until_time: float | None = None  # Unix seconds; null: no cooldown by time
    last_step: int | None = None  # of its last action
    last_revision: int | None = None  # that its last action made
    stopped: bool = False  # Redis was restored from a backup: save the rule again to re-enable it


class RuleList(msgspec.Struct, frozen=True):
    """GET /runs/{run_id}/rules. `revision` grows with every change of the rules."""

    revision: int
    rules: list[RuleView]

    def with_rule(self, new: WatchRule) -> list[WatchRule]:
        """These rules with `new` in place of the rule with its id, or appended."""
        rules = [each.rule for each in self.rules]
        place = next((at for at, rule in enumerate(rules) if rule.id == new.id), len(rules))
        return [*rules[:place], new, *rules[place + 1 :]]

    def without(self, rule_id: str) -> list[WatchRule]:
        """These rules without the one with that id."""
        return [each.rule for each in self.rules if each.rule.id != rule_id]


_TEXT = re.compile(
    r"\s*(?P<scalar>[a-z0-9_]+)\s*(?P<comparison><=|>=|<|>)\s*(?P<value>[^\s,]+?)\s*"
    r"(?:,?\s*for\s+(?P<for_steps>[0-9]{1,9})\s+steps?|,?\s*(?P<times>[0-9]{1,9})\s+times?)?\s*"
)


def parse_condition(text: str) -> Condition:
    """A condition from its text.

    Args:
        text: `target_min < 0.3 for 200 steps`, `nonfinite > 0, 3 times` or `loss > 20`.

    Raises:
        ValueError: The text is no condition.
    """
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
    """A condition as the text that `parse_condition` reads."""
    text = f"{condition.scalar} {condition.comparison} {condition.value:.10g}"
    if condition.for_steps is not None:
        return f"{text} for {condition.for_steps} step{'s' if condition.for_steps > 1 else ''}"
    if condition.times is not None:
        return f"{text}, {condition.times} time{'s' if condition.times > 1 else ''}"
    return text
