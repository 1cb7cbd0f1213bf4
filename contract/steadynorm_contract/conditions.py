"""Conditions on a run's scalars: of watch rules, which the server evaluates, and of detectors, which the agent does.

    target_min < 0.3 for 200 steps              a number, at consecutive steps
    nonfinite > 0, 3 times in 20 steps          not necessarily consecutive
    loss > mean + 6 sigma of 200 for 3 steps    a baseline: mean and spread of the last 200 calm steps
    raw_norm > 20 x median of 500               a multiple of the median of the last 500 calm steps
    loss is nan for 2 steps                     logged as NaN or infinite
    eval/loss > 3, "my reward" < 0 for 5 steps  scalars under names of the loop's own; any text in quotation marks

Calm steps are those that did not meet the condition. The mean and sigma of a baseline are robust: the median, and
1.4826 times the median absolute deviation, so a few outliers that the condition lets through move neither.
"""

import difflib
import enum
import math
import re
from collections.abc import Collection, Iterator

import msgspec

from steadynorm_contract.scalars import name_problem
from steadynorm_contract.settings import FieldError
from steadynorm_contract.signals import SCALARS

__all__ = [
    "WATCHED",
    "Baseline",
    "Comparison",
    "Condition",
    "condition_errors",
    "no_value_words",
    "parse_condition",
    "scalar_warning",
    "show_condition",
]

WATCHED = tuple(each.name for each in SCALARS if not each.is_index)
"""Scalars that a condition can compare."""

MIN_WINDOW, MAX_WINDOW = 10, 1_000
_MAX_NUMBER = 10**6
_MAX_VALUE = 3e38
_SHOWN_NAMES = 5


class Comparison(enum.StrEnum):
    """Operator between a scalar and a value."""

    BELOW = "<"
    AT_MOST = "<="
    ABOVE = ">"
    AT_LEAST = ">="
    IS_NAN = "is nan"
    """Logged as NaN or infinite; of the loss and of scalars that the loop logs only, and without a value."""


class Baseline(enum.StrEnum):
    """What a condition's value is relative to."""

    SIGMA = "sigma"
    """mean + value x sigma of the last `window` calm steps; a negative value is below the mean."""
    MEDIAN = "median"
    """value x the median of the last `window` calm steps."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """When a rule acts: by default at the first step that meets the comparison.

    for_steps: after so many consecutive recorded steps. times: after so many steps, not necessarily consecutive;
    within: all of them among so many. baseline, window: what `value` is relative to, and over how many calm steps.
    A step whose scalar is NaN neither counts nor interrupts.
    """

    scalar: str
    comparison: Comparison
    value: float = 0.0
    for_steps: int | None = None
    times: int | None = None
    within: int | None = None
    baseline: Baseline | None = None
    window: int | None = None

    @property
    def needed(self) -> int:
        """Steps that must meet the comparison."""
        return self.for_steps or self.times or 1

    @property
    def column(self) -> str:
        """The recorded scalar that is read."""
        return "loss_nonfinite" if self.comparison is Comparison.IS_NAN and self.scalar == "loss" else self.scalar

    @property
    def is_built_in(self) -> bool:
        """Whether every run records its scalar, rather than those that log one of that name."""
        return self.scalar in WATCHED

    def logged_value(self, value: float) -> float:
        """What a detector observes where the loop logged `value`."""
        if self.comparison is Comparison.IS_NAN:
            return float(not math.isfinite(value))
        return value if math.isfinite(value) else math.nan

    @property
    def span(self) -> int:
        """Steps that it looks at until it is met: a snapshot is older than those."""
        return self.within or self.needed


def condition_errors(when: Condition) -> Iterator[FieldError]:
    """What is wrong with a condition, field by field."""

    def error(field: str, rule: str, value: object) -> FieldError:
        shown = repr(value)
        return FieldError(field, rule, f"{field} {rule}: got {shown if len(shown) <= 60 else shown[:57] + '...'}.")

    if not when.is_built_in and name_problem(when.scalar) is not None:
        yield error("scalar", f"must be one of {', '.join(WATCHED)}, or a name that is logged", when.scalar)
    if when.comparison is Comparison.IS_NAN and when.is_built_in and when.scalar != "loss":
        yield error(
            "scalar", "must be loss where the comparison is `is nan`; for gradients: nonfinite > 0", when.scalar
        )
    if not abs(when.value) <= _MAX_VALUE:
        yield error("value", "must be a number that float32 holds", when.value)
    if when.for_steps is not None and when.times is not None:
        yield error("times", "must not be combined with for_steps", when.times)
    if when.within is not None and (when.times is None or when.within < when.times):
        yield error("within", "must be at least `times`, which it goes with", when.within)
    for field, value, least, most in (
        ("for_steps", when.for_steps, 1, _MAX_NUMBER),
        ("times", when.times, 1, 1_000 if when.within is not None else _MAX_NUMBER),
        ("within", when.within, 1, _MAX_NUMBER),
        ("window", when.window, MIN_WINDOW, MAX_WINDOW),
    ):
        if value is not None and not least <= value <= most:
            yield error(field, f"must be a whole number from {least} to {most}", value)
    if (when.baseline is None) != (when.window is None):
        yield error("window", "must be given with a baseline, and only then", when.window)
    if when.baseline is not None and when.comparison is Comparison.IS_NAN:
        yield error("baseline", "must not be combined with `is nan`", str(when.baseline))


def scalar_warning(when: Condition, logged: Collection[str]) -> str:
    """What to tell of a condition on a scalar that the run has not logged, which may be a slip of the pen.

    Args:
        when: The condition.
        logged: The names that the run has logged so far, or described.

    Returns:
        One sentence, with names that are nearly the same; empty where there is nothing to tell.
    """
    name = when.scalar
    if when.is_built_in or name in logged:
        return ""
    near = difflib.get_close_matches(name, [*logged, *WATCHED], 3, 0.75)
    if near:
        return f"no scalar {name!a} in this run; did you mean {' or '.join(map(ascii, near))}?"
    shown = ", ".join(map(ascii, sorted(logged)[:_SHOWN_NAMES])) or "none of its own"
    more = f" and {len(logged) - _SHOWN_NAMES} more" if len(logged) > _SHOWN_NAMES else ""
    return f"no scalar {name!a} in this run yet; it logs {shown}{more}."


def no_value_words(text: str, logged: Collection[str]) -> str:
    """What people read beside a detector that has had nothing to look at. text: its condition. logged: see above."""
    try:
        warning = scalar_warning(parse_condition(text), logged)
    except ValueError:  # of an agent that knows other conditions
        warning = ""
    return f"has seen no value yet: {warning}" if warning else "has seen no value yet"


_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:-]*")
_TEXT = re.compile(
    r"\s*(?:(?P<scalar>[A-Za-z0-9_][A-Za-z0-9_./:-]*)|\"(?P<quoted>(?:[^\"\\]|\\.)*)\")\s*"
    r"(?:(?P<nan>is\s+nan)|(?P<comparison><=|>=|<|>)\s*(?:"
    rf"mean\s*(?P<sign>[+-])\s*(?P<sigmas>{_NUMBER})\s*sigmas?\s+of\s+(?P<mean_of>[0-9]{{1,9}})(?:\s+steps?)?"
    rf"|(?P<factor>{_NUMBER})\s*[x*×]\s*median\s+of\s+(?P<median_of>[0-9]{{1,9}})(?:\s+steps?)?"
    r"|(?P<value>[^\s,]+?)))\s*"
    r"(?:,?\s*for\s+(?P<for_steps>[0-9]{1,9})\s+steps?"
    r"|,?\s*(?P<times>[0-9]{1,9})\s+times?(?:\s+(?:with)?in\s+(?P<within>[0-9]{1,9})\s+steps?)?)?\s*"
)


def parse_condition(text: str) -> Condition:
    """A condition from its text.

    Args:
        text: `target_min < 0.3 for 200 steps`, `nonfinite > 0, 3 times in 20 steps`,
            `loss > mean + 6 sigma of 200 for 3 steps`, `raw_norm > 20 x median of 500`, or `loss is nan for 2 steps`.

    Raises:
        ValueError: The text is no condition. It says what to write.
    """
    match = _TEXT.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        given = match["sigmas"] or match["factor"] or match["value"] or "0"
        value = float(match["sign"] + given) if match["sigmas"] and match["sign"] == "-" else float(given)
    except ValueError:
        raise ValueError(
            "a condition must be SCALAR < VALUE, then `for N steps`, `, N times`, `, N times in M steps` or nothing: "
            f'got {text!r}. {_advice(text)}Such as "target_min < 0.3 for 200 steps".'
        ) from None
    window = match["mean_of"] or match["median_of"]
    return Condition(
        scalar=match["scalar"] or re.sub(r"\\(.)", r"\1", match["quoted"]),
        comparison=Comparison.IS_NAN if match["nan"] else Comparison(match["comparison"]),
        value=value,
        for_steps=_whole(match["for_steps"]),
        times=_whole(match["times"]),
        within=_whole(match["within"]),
        baseline=None if window is None else Baseline.SIGMA if match["mean_of"] else Baseline.MEDIAN,
        window=_whole(window),
    )


def _whole(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


def _advice(text: str) -> str:
    """What to write instead, where the text shows what was meant."""
    words = text.lower()
    if "median" in words:
        return 'A median is written "raw_norm > 20 x median of 500". '
    if "mean" in words or "sigma" in words:
        return 'A baseline is written "loss > mean + 6 sigma of 200 for 3 steps". '
    if "nan" in words or "inf" in words:
        return 'A NaN or infinite loss is written "loss is nan for 2 steps", gradients that are: "nonfinite > 0". '
    if "==" in words or "!=" in words:
        return "The comparisons are <, <=, > and >=. "
    return ""


def show_condition(condition: Condition) -> str:
    """A condition as the text that `parse_condition` reads."""
    scalar = condition.scalar
    if not _PLAIN.fullmatch(scalar):
        scalar = '"' + re.sub(r'(["\\])', r"\\\1", scalar) + '"'
    text = f"{scalar} {condition.comparison}"
    if condition.baseline is Baseline.SIGMA:
        sign = "-" if math.copysign(1.0, condition.value) < 0 else "+"
        text = f"{text} mean {sign} {abs(condition.value):.10g} sigma of {condition.window}"
    elif condition.baseline is Baseline.MEDIAN:
        text = f"{text} {condition.value:.10g} x median of {condition.window}"
    elif condition.comparison is not Comparison.IS_NAN:
        text = f"{text} {condition.value:.10g}"
    if condition.for_steps is not None:
        return f"{text} for {_counted(condition.for_steps, 'step')}"
    if condition.times is not None:
        within = "" if condition.within is None else f" in {_counted(condition.within, 'step')}"
        return f"{text}, {_counted(condition.times, 'time')}{within}"
    return text


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"
