"""A watch rule's condition in words, and changes that are meant for another moment."""

from __future__ import annotations

import pytest

from steadynorm_contract.conditions import no_value_words, scalar_warning
from steadynorm_contract.settings import Settings, resolve_increments
from steadynorm_contract.telemetry import SCALAR_COLUMNS
from steadynorm_contract.watch_rules import WATCHED, Comparison, Condition, parse_condition, show_condition


@pytest.mark.parametrize(
    ("text", "condition", "needed"),
    [
        ("target_min < 0.3 for 200 steps", Condition(scalar="target_min", comparison=Comparison.BELOW, value=0.3,
                                                     for_steps=200), 200),
        ("nonfinite > 0, 3 times", Condition(scalar="nonfinite", comparison=Comparison.ABOVE, value=0.0, times=3), 3),
        ("loss >= -1e3", Condition(scalar="loss", comparison=Comparison.AT_LEAST, value=-1000.0), 1),
        ("  raw_norm<=5 ,for 1 step ", Condition(scalar="raw_norm", comparison=Comparison.AT_MOST, value=5.0,
                                                 for_steps=1), 1),
        ("spikes > 2 1 time", Condition(scalar="spikes", comparison=Comparison.ABOVE, value=2.0, times=1), 1),
    ],
)  # fmt: skip
def test_a_condition_is_read_from_words_and_shown_in_them(text: str, condition: Condition, needed: int) -> None:
    assert parse_condition(text) == condition
    assert condition.needed == needed
    assert parse_condition(show_condition(condition)) == condition


@pytest.mark.parametrize(
    "text",
    [
        *("", "loss", "loss == 3", "loss < many", "loss < 3 for ever", "loss < 3 for x steps", "< 3"),
        *("loss < 3 for -1 steps", "loss < 3, 2 times for 3 steps", "loss < 3; reset"),
    ],
)
def test_words_that_are_no_condition_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r'Such as "target_min < 0\.3 for 200 steps"'):
        parse_condition(text)


def test_places_of_parameters_are_not_watched() -> None:
    assert set(SCALAR_COLUMNS) - set(WATCHED) == {"target_parameter", "spike_parameter", "nonfinite_parameter"}


def test_only_counters_are_added_to_what_is_there() -> None:
    present = Settings(reset_generation=4)
    assert resolve_increments({"reset_generation": "+2", "gamma2": 0.9}, present) == {
        "reset_generation": 6,
        "gamma2": 0.9,
    }
    untouched = {"reset_generation": 7, "checkpoint_generation": "+", "mode": "+1", "x_generation": "+1"}
    assert resolve_increments(untouched, present) == untouched


@pytest.mark.parametrize(
    ("text", "logged", "told"),
    [
        ("eval/los > 3", ["acc", "eval/loss"], "no scalar 'eval/los' in this run; did you mean 'eval/loss'?"),
        ("raw_nrm > 3", [], "no scalar 'raw_nrm' in this run; did you mean 'raw_norm'?"),
        (
            "reward < 0",
            list("abcdefg"),
            "no scalar 'reward' in this run yet; it logs 'a', 'b', 'c', 'd', 'e' and 2 more.",
        ),
        ('"\u202eevil" < 0', ["x"], "no scalar '\\u202eevil' in this run yet; it logs 'x'."),
        ("loss > 3", [], ""),
        ("eval/loss > 3", ["eval/loss"], ""),
    ],
)
def test_a_name_that_the_run_does_not_log_is_told_with_names_that_are_near(
    text: str, logged: list[str], told: str
) -> None:
    assert scalar_warning(parse_condition(text), logged) == told
    assert no_value_words(text, logged) == "has seen no value yet" + (f": {told}" if told else "")
    assert no_value_words("of a later version", logged) == "has seen no value yet"
