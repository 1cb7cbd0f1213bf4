"""Watch rules: a condition on a run's scalars changes its settings, with a limit on actions and a cooldown.

    WatchRule(id="low", when=parse_condition("target_min < 0.3 for 200 steps"), settings={"reset_generation": "+1"})
    WatchRule(id="broken", when=parse_condition("nonfinite > 0, 3 times"), settings={"paused": True}, max_actions=1)

A run has no rules by default.
"""

import msgspec

from steadynorm_contract.changes import expand
from steadynorm_contract.conditions import WATCHED, Comparison, Condition, parse_condition, show_condition

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


class WatchRule(msgspec.Struct, frozen=True, kw_only=True):
    """A condition and the change that it makes.

    settings: only what changes; counters as increments such as "+1", resolved when the rule acts; `preset` as in
    `Change`. max_actions: after so many actions the rule stays inactive until it is saved with another value.
    cooldown_steps, cooldown_s: after an action it neither acts nor counts until both have passed.
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
    condition: str  # as text, see `conditions.parse_condition`
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
    stopped: bool = False  # Redis was restored from a backup: an unchanged rule stays so until it is removed
    has_value: bool = True  # whether the run ever had a value of its scalar: without one it cannot act
    warning: str = ""  # that the run has not logged its scalar, with names that are nearly the same


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
