"""Conditions at work: one table of what each finds in a series of values, for the server's rules and the agent's."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

import pytest

from steadynorm_contract.conditions import condition_errors, parse_condition, show_condition
from steadynorm_contract.detectors import Detector, DetectorState

NAN, INF = math.nan, math.inf
CALM = [2.0 + 0.1 * math.sin(step) for step in range(100)]

TABLE: list[tuple[str, list[float], list[int]]] = [
    # The condition, the values of steps 1, 2, 3, ..., and the steps at which it is met.
    ("loss > 9", [1, 10, 10], [2, 3]),
    ("loss > 0.3", [0.30000001192092896, 0.31], [2]),
    ("loss >= 2 for 3 steps", [2, 2, 1, 2, 2, 2, 2], [6]),
    ("loss > 9 for 4 steps", [10, NAN, 10, NAN, 10, 10], [6]),
    ("loss > 9", [INF, -INF], [1]),
    ("nonfinite > 0, 3 times", [1, 0, 1, 0, 0, 0, 1, 1], [7]),
    ("nonfinite > 0, 3 times in 5 steps", [1, 0, 0, 1, 0, 1, 0, 1, 1], [8]),
    ("nonfinite > 0, 2 times in 2 steps", [1, 0, 1, 1, 1, 1], [4, 6]),
    ("loss is nan for 2 steps", [0, 1, 0, 1, 1, 0], [5]),  # the column loss_nonfinite
    ("loss > mean + 6 sigma of 100", [*CALM, 2.3, 2.9, INF, 2.1, 9.0], [102, 105]),
    ("loss > mean + 6 sigma of 100 for 3 steps", [*CALM, 9, 9, 2, 9, 9, 9, 9, 9, 9], [106, 109]),
    ("loss < mean - 6 sigma of 100", [*CALM, 1.9, 0.1], [102]),
    ("raw_norm > 20 x median of 100", [*CALM, 39, 42, NAN, 50], [102, 104]),
    ("loss > mean + 6 sigma of 100", [*CALM[:49], 9.0], []),  # not half of its steps yet
    ("loss > mean + 6 sigma of 100", [*CALM[:50], 9.0], [51]),
    ("loss > mean + 6 sigma of 10", [2.0] * 20 + [2.1, 2.2], [22]),  # no spread: a hundredth of the mean
    ("loss > mean + 6 sigma of 40", [*(0.05 * step for step in range(80)), 20.0], [81]),  # it follows a slow drift
    ("loss > mean + 6 sigma of 100 for 2 steps", [*CALM, *[9.0, 2.0] * 60, 9.0, 9.0], [222]),  # outliers move nothing
]


@pytest.mark.parametrize(("condition", "values", "met"), TABLE)
def test_a_condition_is_met_at_these_steps(condition: str, values: list[float], met: list[int]) -> None:
    when = parse_condition(condition)
    assert not list(condition_errors(when))
    assert parse_condition(show_condition(when)) == when
    detector = Detector(when)
    assert [step for step, value in enumerate(values, 1) if detector.observe(step, value)] == met


@pytest.mark.parametrize(("condition", "values", "met"), TABLE)
def test_it_goes_on_from_its_state_after_each_step(condition: str, values: list[float], met: list[int]) -> None:
    found, state = [], DetectorState()
    for step, value in enumerate(values, 1):
        detector = Detector(parse_condition(condition), state)
        value = float(value)
        if detector.observe(step, value):
            found.append(step)
        state = detector.state
    assert found == met


def test_the_baseline_is_the_median_and_the_median_deviation_of_its_window() -> None:
    random.seed(0)
    detector = Detector(parse_condition("loss > mean + 6 sigma of 51"))
    window: list[float] = []
    for step in range(400):
        value = random.choice([random.gauss(3, 1), float(random.randrange(5))])
        held = (limit := detector.limit()) is not None and value > limit
        detector.observe(step, value)
        window = (window if held else [*window, value])[-51:]
        if len(window) >= 26:
            middle = statistics.median(window)
            deviations = sorted(abs(each - middle) for each in window)
            sigma = max(1.4826 * deviations[(len(deviations) - 1) // 2], 0.01 * abs(middle))
            assert detector.limit() == pytest.approx(middle + 6 * sigma)


def test_a_step_that_was_not_calm_for_another_reason_does_not_enter_the_baseline() -> None:
    detector = Detector(parse_condition("raw_norm > 20 x median of 10"))
    for step in range(10):
        detector.observe(step, 1.0)
    for step in range(10, 30):
        detector.observe(step, 15.0, calm=False)
    assert detector.limit() == 20.0
    assert detector.observe(30, 21.0)
    assert detector.figures() == "raw_norm 21 against 20"


def test_in_a_cooldown_nothing_counts_and_the_baseline_goes_on() -> None:
    detector = Detector(parse_condition("raw_norm > 20 x median of 10"))
    for step in range(10):
        assert not detector.observe(step, 1.0, counts=False)
    assert not detector.observe(10, 100.0, counts=False)
    assert detector.observe(11, 100.0)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("loss > mean + 6 sigma", 'written "loss > mean + 6 sigma of 200'),
        ("loss > 6 sigma of 200", 'written "loss > mean + 6 sigma of 200'),
        ("raw_norm > 20 median of 500", 'written "raw_norm > 20 x median of 500"'),
        ("raw_norm > median x 20", 'written "raw_norm > 20 x median of 500"'),
        ("loss == nan", 'written "loss is nan for 2 steps"'),
        ("loss > nan", None),  # a number by its syntax: refused as a value
        ("loss == 3", "comparisons are <, <=, > and >="),
    ],
)
def test_the_error_says_what_to_write(text: str, advice: str | None) -> None:
    if advice is None:
        assert "value must be a number" in next(condition_errors(parse_condition(text))).message
        return
    with pytest.raises(ValueError, match="a condition must be") as error:
        parse_condition(text)
    assert advice in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raw_norm is nan", "scalar must be loss where"),
        ("loss > mean + 6 sigma of 5", "window must be a whole number from 10 to 1000: got 5"),
        ("loss > 3 x median of 5000", "window must be a whole number from 10 to 1000: got 5000"),
        ("nonfinite > 0, 5 times in 3 steps", "within must be at least `times`"),
        ("steps_per_s > 3", "scalar must be one of"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(text: str, told: str) -> None:
    assert told in " ".join(each.message for each in condition_errors(parse_condition(text)))


def test_a_level_that_moved_for_known_reasons_is_learned_unless_it_is_a_multiple() -> None:
    condition = parse_condition("loss > mean + 10 sigma of 40")
    for level, met in ((2.6, []), (4.5, [1] * 40)):
        detector = Detector(condition)
        for value in CALM[:40]:
            detector.observe(0, value)
        moved = [level + 0.1 * math.sin(step) for step in range(80)]
        found = [int(detector.observe(0, value, moved=True)) for value in moved]
        assert found[40:] == (met or [0] * 40)


def _rollouts(level: float, fall: float, noise: float) -> list[float]:
    """Sixteen steps each on the same data, whose loss falls meanwhile."""
    return [level + fall * (0.5 - step % 16 / 16) + random.gauss(0, noise) for step in range(200)]


def _walk(share: float) -> list[float]:
    values = [0.0]
    while len(values) < 200:
        values.append(share * values[-1] + random.gauss(0, 1))
    return values


WANDER: list[tuple[str, bool, Callable[[], list[float]]]] = [
    ("noise", False, lambda: [random.gauss(2.0, 0.2) for _ in range(200)]),
    ("heavy tails", False, lambda: [2.0 + 0.2 * random.gauss(0, 1) / (0.1 + random.random()) for _ in range(200)]),
    ("falls", False, lambda: [1.6 + 3 * math.exp(-step / 20) + random.gauss(0, 0.1) for step in range(200)]),
    ("falls without noise", False, lambda: [1.6 + 3 * math.exp(-step / 20) for step in range(200)]),
    ("stuck", False, lambda: [2.0] * 200),
    ("counts", False, lambda: [float(random.randrange(3)) for _ in range(200)]),
    ("rollouts", True, lambda: _rollouts(30.0, 15.0, 3.0)),
    ("averages of steps", True, lambda: _walk(0.8)),
    ("walks", True, lambda: _walk(1.0)),
    ("rises", True, lambda: [1.0 + step / 200 + random.gauss(0, 0.1) for step in range(200)]),
]


@pytest.mark.parametrize(("wanders", "values"), [each[1:] for each in WANDER], ids=[each[0] for each in WANDER])
def test_a_series_wanders_unless_it_is_noise_around_a_level_that_stays_or_falls(
    wanders: bool, values: Callable[[], list[float]]
) -> None:
    random.seed(0)
    detector = Detector(parse_condition("loss > mean + 1000 sigma of 200"))
    found = []
    for _ in range(20):
        detector = Detector(detector.when)
        for step, value in enumerate(values()):
            detector.observe(step, value)
        assert detector.learned == 200
        found.append(detector.wanders)
    assert found == [wanders] * 20


def test_what_wanders_is_asked_of_the_present_baseline() -> None:
    random.seed(0)
    detector = Detector(parse_condition("loss > mean + 1000 sigma of 100"))
    assert not detector.wanders  # of nothing
    for values in (_walk(1.0), [random.gauss(0.0, 1.0) for _ in range(100)]):
        for step, value in enumerate(values):
            detector.observe(step, value)
        assert detector.wanders == (len(values) == 200)
