"""Early warning: which signal tells, how many steps ahead, that a run will blow up, at equal false alarms."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from study import svg
from study.pictures import losses
from study.run import SCHEDULES
from study.svg import Line, Panel
from study.tables import Answer, Rows, by, markdown, number, spread
from study.trial import Outcome, Trial

__all__ = ["early_warning"]

WINDOW = 33
"""Steps before the present ones whose median is what is usual."""
MEAN_OF = 5
FIRST = WINDOW + MEAN_OF
"""The first step that has a signal."""
RISE = 0.5
"""Nats by which the mean loss of 5 steps is above its least so far when a run has blown up."""
SOON = 40
"""An alarm at most so many steps before a blow-up is a warning, an earlier one is false."""
FALSE_ALARMS = 0.002
"""Share of the calm steps that have one: of each signal, by its threshold."""
AHEAD = (2, 5, 10, 20)
LATER, COMPARED = 15, 5
"""A run is compared at the same step with those that blow up more than 15 steps later, or never: five at least."""


@dataclass(frozen=True, slots=True)
class Run:
    """signals: values by name, one a step, NaN before FIRST. end: the step of the blow-up; infinite without one."""

    signals: dict[str, list[float]]
    end: float
    steps: int


def early_warning(rows: Rows) -> Answer:
    """By task and optimizer: when runs blow up, how well each signal separates them before, and what alarms catch."""
    texts, panels = [], []
    for (task, optimizer), group in by(rows, "task", "optimizer").items():
        runs = [_run(trial, outcome) for trial, outcome in group if outcome.signals]
        ends = sorted(run.end for run in runs if run.end < math.inf)
        between = f", at steps {ends[0]:.0f} to {ends[-1]:.0f}" if ends else ""
        names = list(runs[0].signals) if runs else []
        texts.append(f"**{task}, {optimizer}**: {len(ends)} of {len(runs)} runs blow up{between}.\n")
        caught = {name: _caught([(run.signals[name], run) for run in runs]) for name in names}
        shares = {name: [_separation(name, runs, ahead) for ahead in AHEAD] for name in names}
        by_chance = [1 - (1 - FALSE_ALARMS) ** (SOON - ahead + 1) for ahead in AHEAD]
        table = [
            [name, *(share.words for share in shares[name]),
             *(f"{each:.0%}" if ends else "–" for each in caught[name].shares), number(caught[name].lead),
             number(caught[name].threshold)]
            for name in names
        ]  # fmt: skip
        table.append(["by chance", *["0.50"] * len(AHEAD), *(f"{each:.0%}" for each in by_chance), "", ""])
        head = [*(f"above calm, {ahead} ahead" for ahead in AHEAD), *(f"caught, {ahead} ahead" for ahead in AHEAD)]
        texts.append(markdown(["signal", *head, "median steps ahead", "threshold"], table))
        if ends:
            every = range(1, AHEAD[-1] + 1)
            lines = [
                Line(name, list(every), [_separation(name, runs, ahead).mean for ahead in every])
                for name in ("update norm", "gradient norm", "loss")
            ]
            panels.append(Panel(f"{task}, {optimizer}", "steps ahead", "above calm runs", lines, low=0.0, high=1.0))
        else:
            panels.append(losses(f"{task}, {optimizer}", {"nothing": [outcome for _, outcome in group]}))
    return Answer(
        "\n".join([_HOW, "![separation by steps ahead](images/study/early-warning.svg)\n", *texts]),
        {"early-warning.svg": svg.draw(panels)},
    )


_HOW = (
    "Untouched runs whose rate grows 150-fold from the usual one, step by step. One has blown up when the mean loss of "
    f"{MEAN_OF} steps is {RISE:g} nats above its least so far. Recorded of each step: the loss, the norm of the "
    "gradient, and the norm of what the optimizer changed. A signal is how many times as large as the median of the "
    f"{WINDOW} steps before one of these is now (of the loss: how many standard deviations above that median), in one "
    f"step or in the mean of {MEAN_OF}. **Above calm**: the share of the runs that blow up more than {LATER} steps "
    "later, or never, that a run about to blow up exceeds at the same step, ± the standard error over blow-ups (in "
    f"brackets: those that have {COMPARED} such runs to be compared with). **Caught**: blow-ups with an alarm so many "
    f"steps ahead and no more than {SOON}, where each signal's threshold is such that {FALSE_ALARMS:.1%} of the steps "
    "before that have a false alarm. Signals know nothing of the future, but a threshold is of the same runs.\n"
)


def blow_up(losses: Sequence[float]) -> float:
    """The step, from 0, at which the mean loss of the last steps is too far above its least; infinite without one."""
    least = math.inf
    for step in range(MEAN_OF - 1, len(losses)):
        mean = statistics.fmean(losses[step - MEAN_OF + 1 : step + 1])
        if not mean < least + RISE:
            return step
        least = min(least, mean)
    return math.inf


def _run(trial: Trial, outcome: Outcome) -> Run:
    loss, gradient, update = outcome.series()
    rates = [SCHEDULES[trial.schedule]((step + 1) / trial.steps) for step in range(len(loss))]
    series: dict[str, tuple[list[float], Callable[[Sequence[float], float], float]]] = {
        "update norm": (update, _ratio),
        "update norm / rate": ([one / rate for one, rate in zip(update, rates, strict=True)], _ratio),
        "gradient norm": (gradient, _ratio),
        "loss": (loss, _deviations),
    }
    signals = {
        name if length == 1 else f"{name}, mean of {length}": _signal(values, measure, length)
        for length in (1, MEAN_OF)
        for name, (values, measure) in series.items()
    }
    return Run(signals, blow_up(loss), len(loss))


def _signal(values: Sequence[float], measure: Callable[[Sequence[float], float], float], length: int) -> list[float]:
    """Of each step's last `length` values beside the WINDOW before them. Not a number where any is not finite."""
    found = [math.nan] * min(FIRST, len(values))
    for step in range(FIRST, len(values)):
        now = statistics.fmean(values[step - length + 1 : step + 1])
        before = values[step - length + 1 - WINDOW : step - length + 1]
        found.append(measure(before, now) if math.isfinite(now + sum(before)) else math.nan)
    return found


def _ratio(before: Sequence[float], now: float) -> float:
    usual = statistics.median(before)
    return now / usual if usual > 0 else math.nan


def _deviations(before: Sequence[float], now: float) -> float:
    deviation = statistics.stdev(before)
    return (now - statistics.median(before)) / deviation if deviation > 0 else math.nan


@dataclass(frozen=True, slots=True)
class Separation:
    """shares: for each blow-up, that of the calm runs below it."""

    shares: list[float]

    @property
    def mean(self) -> float:
        """Over blow-ups; not a number without any."""
        return statistics.fmean(self.shares) if self.shares else math.nan

    @property
    def words(self) -> str:
        """Mean, standard error and number."""
        count = len(self.shares)
        error = f" ± {spread(self.shares) / math.sqrt(count):.2f}" if count > 1 else ""
        return f"{self.mean:.2f}{error} ({count})" if count else "–"


def _separation(name: str, runs: Sequence[Run], ahead: int) -> Separation:
    """Of runs that blow up `ahead` steps later, against those that are calm at the same step."""
    shares = []
    for run in runs:
        if not FIRST + ahead <= run.end < math.inf:
            continue
        step = int(run.end) - ahead
        now = run.signals[name][step]
        calm = [other.signals[name][step] for other in runs if min(other.end, other.steps) > run.end + LATER]
        if len(calm) >= COMPARED and math.isfinite(now):
            shares.append(statistics.fmean((now > each) + 0.5 * (now == each) for each in calm))
    return Separation(shares)


@dataclass(frozen=True, slots=True)
class Caught:
    """shares: of the blow-ups, by AHEAD; lead: median steps from the first warning to a blow-up that had one."""

    shares: list[float]
    lead: float
    threshold: float


def _caught(signals: Sequence[tuple[list[float], Run]]) -> Caught:
    calm = sorted(
        value
        for values, run in signals
        for value in values[FIRST : max(int(min(run.end, run.steps)) - SOON, 0)]
        if math.isfinite(value)
    )
    threshold = calm[math.ceil((1 - FALSE_ALARMS) * len(calm)) - 1] if calm else math.nan
    leads = []
    for values, run in signals:
        if FIRST + SOON <= run.end < math.inf:
            end = int(run.end)
            soon = [end - step for step in range(end - SOON, end) if values[step] > threshold]
            leads.append(max(soon, default=0))
    warned = [lead for lead in leads if lead]
    shares = [statistics.fmean(lead >= ahead for lead in leads) if leads else math.nan for ahead in AHEAD]
    return Caught(shares, statistics.median(warned) if warned else math.nan, threshold)
