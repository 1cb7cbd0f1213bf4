"""Evaluates a condition step by step: the same code for the server's watch rules and for the agent's detectors.

detector = Detector(parse_condition("loss > mean + 6 sigma of 200 for 3 steps"))
for step, loss in enumerate(losses, 1):
    if detector.observe(step, loss):
        print(step, detector.figures())
"""

import bisect
import itertools
import math
import operator
import struct
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from steadynorm_contract.conditions import Baseline, Comparison, Condition
from steadynorm_contract.telemetry import floats_from_bytes, floats_to_bytes

__all__ = ["Detector", "DetectorState"]

_HOLDS: dict[Comparison, Callable[[float, float], bool]] = {
    Comparison.BELOW: operator.lt,
    Comparison.AT_MOST: operator.le,
    Comparison.ABOVE: operator.gt,
    Comparison.AT_LEAST: operator.ge,
    Comparison.IS_NAN: operator.gt,  # of the column that says so
}
_SIGMA_OF_MAD = 1.4826  # of a normal distribution
_LEAST_SIGMA = 0.01
"""Of the mean: of values that hardly vary, such as counts or a stuck loss, any difference would be an outlier."""

_MOST_MOVED = 2.0  # times the median: what lasts and is more is a fault still
_MOST_ALIKE = 0.2
"""Correlation of successive values, three standard errors of 200 that are independent: beyond it they wander."""


class DetectorState(msgspec.Struct):
    """How far a condition has counted, and its baseline. Stored between two batches of a run."""

    count: int = 0  # steps that met it, of `needed`
    steps: list[int] = []  # which ones, of a condition with `within`
    calm: bytes = b""  # float32: the newest values that did not meet it, oldest first; at most `window`


class Detector:
    """One condition at work. It is met once for each time that enough steps were counted, and then counts from 0."""

    def __init__(self, when: Condition, state: DetectorState | None = None) -> None:
        state = state or DetectorState()
        self.when = when
        self.count = state.count
        self._steps = deque(state.steps)
        self._calm = deque(floats_from_bytes(state.calm), maxlen=when.window or 0)
        self._sorted = sorted(self._calm)
        self._holds, self._limit = _HOLDS[when.comparison], _as_stored(when.value)
        self._last = (math.nan, math.nan)
        self._wanders: bool | None = None  # of the present baseline; None: not asked yet
        self.held_at = -1  # the newest step that met the comparison and counted

    @property
    def state(self) -> DetectorState:
        """What a later detector of the same condition continues from."""
        return DetectorState(self.count, list(self._steps), floats_to_bytes(self._calm) if self._calm else b"")

    def observe(self, step: int, value: float, *, counts: bool = True, calm: bool = True, moved: bool = False) -> bool:
        """One recorded step.

        Args:
            step: Its number.
            value: Of the column `when.column`. A NaN neither counts nor interrupts, and neither does an infinity where
                there is a baseline: gradients that are not finite are `nonfinite`.
            counts: Whether the step may count: not in a cooldown.
            calm: Whether the value may enter the baseline, if it does not meet the condition.
            moved: Whether it may do so also if it does, up to twice the median: of weights that are known to be good
                it says that the data have changed.

        Returns:
            Whether the condition is met with this step.
        """
        when = self.when
        if math.isnan(value) or (when.window is not None and math.isinf(value)):
            return False
        limit = self._limit if when.baseline is None else self.limit()
        holds = limit is not None and self._holds(value, limit)
        if counts:
            if holds:
                self.held_at = step
                self._last = (value, limit if limit is not None else math.nan)
            self._count(step, holds)
        learned = not holds or (moved and self._sorted and abs(value) <= _MOST_MOVED * abs(_median(self._sorted)))
        if when.window is not None and calm and learned:
            self._learn(value, when.window)
        if self.count < when.needed:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Count from 0; the baseline stays."""
        self.count = 0
        self._steps.clear()

    def limit(self) -> float | None:
        """What a value is compared with now. None: there are fewer than half of `window` calm steps."""
        when, values = self.when, self._sorted
        if when.baseline is None or when.window is None:
            return self._limit
        if 2 * len(values) < when.window:
            return None
        median = _median(values)
        if when.baseline is Baseline.MEDIAN:
            return when.value * median
        sigma = max(_SIGMA_OF_MAD * _median_deviation(values, median), _LEAST_SIGMA * abs(median))
        return median + when.value * sigma

    @property
    def learned(self) -> int:
        """Calm values in the baseline, at most `window`."""
        return len(self._calm)

    @property
    def wanders(self) -> bool:
        """Whether the baseline's values are anything but independent noise around a level that stays or falls.

        Then sigma says how far one value is from its neighbours, and not how far they go together: several in a row
        beyond it are nothing unusual. So it is with reinforcement learning, whose data are the policy's own.
        """
        if self._wanders is None:
            self._wanders = _correlation(list(self._calm)) > _MOST_ALIKE
        return self._wanders

    @property
    def excess(self) -> float:
        """How far the newest value that met the comparison was from the baseline's median; from 0 without one."""
        if self.when.comparison is Comparison.IS_NAN:
            return math.inf
        return abs(self._last[0] - (_median(self._sorted) if self._sorted else 0.0))

    def figures(self) -> str:
        """For people: the newest value that met the comparison, and what it was compared with."""
        value, limit = self._last
        if self.when.comparison is Comparison.IS_NAN:
            return f"a {self.when.scalar} that is NaN or infinite"
        return f"{self.when.scalar} {value:.4g} against {limit:.4g}"

    def _count(self, step: int, holds: bool) -> None:
        within = self.when.within
        if within is None:
            if holds:
                self.count += 1
            elif self.when.times is None:
                self.count = 0
            return
        # Also where steps went back, to a checkpoint's.
        while self._steps and not step - within < self._steps[0] <= step:
            self._steps.popleft()
        if holds:
            self._steps.append(step)
        self.count = len(self._steps)

    def _learn(self, value: float, window: int) -> None:
        if len(self._calm) == window:
            del self._sorted[bisect.bisect_left(self._sorted, self._calm[0])]
        self._calm.append(value)
        self._wanders = None
        bisect.insort(self._sorted, value)


def _median(values: Sequence[float]) -> float:
    """Of sorted values."""
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _median_deviation(values: Sequence[float], median: float) -> float:
    """Median of the absolute deviations of sorted values from their median, in O(log n).

    The half of the values that is closest to the median is a range of them; its farther end is the answer.
    """
    half = (len(values) + 1) // 2
    low, high = 0, len(values) - half
    while low < high:
        middle = (low + high) // 2
        if median - values[middle] > values[middle + half] - median:
            low = middle + 1
        else:
            high = middle
    return max(median - values[low], values[low + half - 1] - median)


def _correlation(values: Sequence[float]) -> float:
    """Of each value with the next, by rank, once the best falling line was taken off: 0 of noise, also while it falls.

    Bartels' rank version of von Neumann's ratio (JASA 77, 1982), of what is left of an isotonic regression.
    """
    ranks = _ranks([value - level for value, level in zip(values, _falling(values), strict=True)])
    middle = (len(ranks) - 1) / 2
    spread = sum((rank - middle) ** 2 for rank in ranks)
    apart = sum((after - before) ** 2 for before, after in itertools.pairwise(ranks))
    return 1 - apart / (2 * spread) if spread else 0.0


def _falling(values: Sequence[float]) -> list[float]:
    """The sequence that never rises and is closest to the values by least squares: neighbours that rise are pooled."""
    pools: list[tuple[float, int]] = []  # sum and number
    for value in values:
        total, number = value, 1
        while pools and pools[-1][0] * number < total * pools[-1][1]:
            before, count = pools.pop()
            total, number = total + before, number + count
        pools.append((total, number))
    return [total / number for total, number in pools for _ in range(number)]


def _ranks(values: Sequence[float]) -> list[float]:
    """From 0; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    first = 0
    for _, equal in itertools.groupby(order, key=values.__getitem__):
        places = list(equal)
        for place in places:
            ranks[place] = first + (len(places) - 1) / 2
        first += len(places)
    return ranks


def _as_stored(value: float) -> float:
    """In float32, as the scalars are, so that 0.3 is 0.3."""
    stored: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return stored
