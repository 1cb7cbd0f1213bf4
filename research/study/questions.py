"""The questions, and the trials that answer each.

A scale says how much of it: `FULL` answers, `QUICK` is a miniature of the same shape, which proves that all works, and
`GPU` is what is left to a larger machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from study.faults import DIRECTIONS, EXTENTS
from study.methods import ASKED_FOR, METHODS, RULES
from study.optimizers import RATES
from study.precision import PRECISIONS
from study.tasks.registry import TASKS
from study.trial import Trial

__all__ = ["FULL", "QUESTIONS", "QUICK", "SCALES", "Question", "Scale", "usual_rate"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the study is. steps: factor on each task's own. every: of the learning rates, each such one."""

    name: str
    seeds: int
    steps: float
    every: int
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    factors: tuple[int, ...] = (10, 100, 1000)
    on_gpu: bool = False

    def length(self, task: str) -> int:
        """Steps of `task`."""
        return max(10, round(self.steps * TASKS[task].steps / 10) * 10)

    def chosen(self, names: tuple[str, ...]) -> list[str]:
        """Those of `names` that this scale has."""
        return [name for name in names if name in self.methods]


SMALL = ("language", "digits-cnn", "digits-vit", "co2", "cartpole", "pendulum")
FULL = Scale("full", 5, 1.0, 1, (*SMALL, "bandit"), tuple(METHODS))
QUICK = Scale(
    "quick",
    1,
    0.05,
    3,
    ("language", "digits-cnn", "cartpole"),
    ("nothing", "paper"),
    (100,),
)
GPU = Scale(
    "gpu",
    5,
    1.0,
    1,
    ("language-large",),
    ("nothing", "clip 1", "zclip", "adagc", "paper", "paper, limit 3", "paper, limit 10"),
    on_gpu=True,
)
SCALES = {scale.name: scale for scale in (FULL, QUICK, GPU)}

RATED = tuple(name for name in METHODS if name not in ASKED_FOR)
FEW = ("nothing", "clip 1", "zclip", "adagc", "paper", "paper, limit 3", "paper, limit 10")
AGAINST_SPIKES = (
    "nothing",
    "clip 1",
    "value clip 0.1",
    "zclip",
    "adagc",
    "paper",
    "paper, limit 3",
    "paper, limit 10",
    "paper, 0.7/0.9",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, how its trials are made, and where they run. owed: what this machine leaves to a GPU."""

    name: str
    title: str
    trials: Callable[[Scale], Iterator[Trial]]
    owed: bool = False


def _rates(optimizer: str, scale: Scale) -> tuple[float, ...]:
    return RATES[optimizer][:: scale.every]


def _base(question: str, task: str, optimizer: str, method: str, seed: int, scale: Scale) -> Trial:
    rate = TASKS[task].rates[optimizer]
    return Trial(question, task, optimizer, method, rate, scale.length(task), seed)


def _with(trial: Trial, **changes: object) -> Trial:
    return replace(trial, **changes)  # type: ignore[arg-type]  # fields of Trial


def learning_rates(scale: Scale) -> Iterator[Trial]:
    """All methods under AdamW on all tasks; the main ones under SGD and Lion where those are usual."""
    for task in scale.tasks:
        if task not in SMALL:
            continue
        for optimizer, methods in (("adamw", RATED), ("sgd", FEW), ("lion", FEW)):
            if optimizer != "adamw" and task not in ("language", "digits-cnn"):
                continue
            if optimizer not in TASKS[task].rates:
                continue
            for method, rate, seed in product(scale.chosen(methods), _rates(optimizer, scale), range(scale.seeds)):
                yield _with(_base("rates", task, optimizer, method, seed, scale), lr=rate)


def spikes(scale: Scale) -> Iterator[Trial]:
    """One spike at half-time, and the same run without it."""
    for task, optimizer, extents in (
        ("language", "adamw", EXTENTS), ("language", "sgd", ("one", "all")), ("digits-cnn", "adamw", ("one", "all")),
    ):  # fmt: skip
        if task not in scale.tasks:
            continue
        for method, seed in product(scale.chosen(AGAINST_SPIKES), range(scale.seeds)):
            calm = _base("spikes", task, optimizer, method, seed, scale)
            yield calm
            for factor, extent, direction in product(scale.factors, extents, DIRECTIONS):
                yield _with(calm, fault=f"{factor}/{extent}/{direction}/{calm.steps // 2}")


def throttling(scale: Scale) -> Iterator[Trial]:
    """A spike on all tensors after a third; the statistics reset ten steps later, or kept from it, or neither; and the
    same run without the spike."""
    task = "language" if "language" in scale.tasks else scale.tasks[0]
    for method, seed in product(scale.chosen(tuple(RULES)), range(scale.seeds)):
        once = _base("throttling", task, "adamw", method, seed, scale)
        calm = _with(once, steps=2 * once.steps)
        yield calm
        at = calm.steps // 3
        for factor in (*scale.factors, 30, 300):
            spiked = _with(calm, fault=f"{factor}/all/kept/{at}")
            yield spiked
            if method == "paper":
                yield _with(spiked, switch=f"reset/{at + 10}/")


def weight_decay(scale: Scale) -> Iterator[Trial]:
    """Five strengths, on the two tasks that overfit most."""
    tasks = [task for task in ("digits-vit", "digits-cnn", "language") if task in scale.tasks][:2]
    strengths = (0.0, 0.01, 0.1, 0.3, 1.0)[:: scale.every]
    for task, method, strength, seed in product(tasks, scale.chosen(FEW), strengths, range(scale.seeds)):
        yield _with(_base("weight decay", task, "adamw", method, seed, scale), weight_decay=strength)


def switching(scale: Scale) -> Iterator[Trial]:
    """On and off at a quarter, a half and three quarters; beside the runs that nobody touches."""
    task = "language" if "language" in scale.tasks else scale.tasks[0]
    for optimizer, seed in product(("adamw", "sgd"), range(scale.seeds)):
        for untouched in ("nothing", "paper"):
            yield _base("switching", task, optimizer, untouched, seed, scale)
        calm = _base("switching", task, optimizer, "paper", seed, scale)
        for direction, quarter, transfer in product(("on", "off"), (1, 2, 3), ("bumpless", "plain")):
            yield _with(calm, switch=f"{direction}/{quarter * calm.steps // 4}/{transfer}")


def low_bit(scale: Scale) -> Iterator[Trial]:
    """Float16 with a loss scaler, and weights and activations of 4 bits, at rates up to far too fast."""
    task = next((one for one in ("language-large", "language") if one in scale.tasks), scale.tasks[0])
    for optimizer, rates in (("adamw", RATES["adamw"][1:6:2]), ("sgd", RATES["sgd"][4:7:2])):
        if optimizer not in TASKS[task].rates:
            continue
        for precision, method, rate, seed in product(
            PRECISIONS, scale.chosen(FEW), rates[: 1 if scale.every > 1 else None], range(scale.seeds)
        ):
            yield _with(_base("low bit", task, optimizer, method, seed, scale), lr=rate, precision=precision)


CANDIDATES = ("paper", "paper, limit 3", "robust")
"""What the default could be."""


def default(scale: Scale) -> Iterator[Trial]:
    """The candidates under five optimizers: calm, with seven faults, at the next faster rate; and with heavy tails.

    Seed by seed, so that what is there of an unfinished study is all of it for the seeds that it has.
    """
    candidates = scale.chosen(CANDIDATES)
    for seed in range(scale.seeds):
        if "language" in scale.tasks:
            for optimizer in (*TASKS["language"].rates,)[:: scale.every]:
                for method in candidates:
                    calm = _base("default", "language", optimizer, method, seed, scale)
                    calm = _with(calm, lr=usual_rate(optimizer))
                    yield calm
                    for fault in faults(calm.steps)[:: scale.every]:
                        yield _with(calm, fault=fault)
                    rates = RATES[optimizer]
                    yield _with(calm, lr=rates[rates.index(calm.lr) + 1])
        if "bandit" in scale.tasks:
            for optimizer, lr in HEAVY_TAILED:
                for method in (*scale.chosen(("nothing", "clip 1", "zclip")), *candidates):
                    yield _with(_base("default", "bandit", optimizer, method, seed, scale), lr=lr)


ASKED = ("nothing", "clip 1", "zclip", "paper", "robust", *ASKED_FOR)


def asked_for(scale: Scale) -> Iterator[Trial]:
    """Two schedules of the rate, at the usual one and two faster; and at the usual, constant one four faults.

    Under AdamW, of which two of the methods are variants; seed by seed, three at most: what is there is told apart.
    """
    tasks = [task for task in ("language", "digits-cnn") if task in scale.tasks]
    for seed, task in product(range(min(scale.seeds, 3)), tasks):
        usual = TASKS[task].rates["adamw"]
        at = RATES["adamw"].index(usual)
        for method in scale.chosen(ASKED):
            calm = _base("asked for", task, "adamw", method, seed, scale)
            for schedule, lr in product(("constant", "cosine"), RATES["adamw"][at : at + 3][:: scale.every]):
                yield _with(calm, lr=lr, schedule=schedule)
            for fault in faults(calm.steps)[:4][:: scale.every]:
                yield _with(calm, fault=fault)


def usual_rate(optimizer: str) -> float:
    """The rate at which the candidates train language well: under SGD, where the rule sets the size of the update, it
    is lower than that of untouched gradients (question 1)."""
    return 3e-2 if optimizer == "sgd" else TASKS["language"].rates[optimizer]


HEAVY_TAILED = (
    *(("adamw", lr) for lr in (3e-3, 1e-2, 3e-2)),
    *(("sgd", lr) for lr in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
)


def faults(steps: int) -> list[str]:
    """All in runs of so many steps: single spikes, a series, repeated ones, bad batches, a lasting rise, a fall."""
    half, start = steps // 2, steps // 10
    return [
        f"1000/all/kept/{half}",
        f"1000/all/random/{half}",
        f"100/all/random/{half}/10",
        f"30/all/random/{start}/end/20",
        f"10/batch/labels/{start}/end/20",
        f"10/all/kept/{half}/end",
        f"0.1/all/kept/{half}/end",
    ]


WATCHED = ("adamw", "adamw 0.95", "sgd")
RUNS_A_SEED = 8
"""Of the early warning: it counts runs, and a run has one blow-up at most."""


def early_warning(scale: Scale) -> Iterator[Trial]:
    """Untouched runs whose rate rises until most of them blow up, with the signals of each step."""
    if "language" in scale.tasks:
        for seed, optimizer in product(range(RUNS_A_SEED * scale.seeds), WATCHED[:: scale.every]):
            calm = _base("early warning", "language", optimizer, "nothing", seed, scale)
            yield _with(calm, schedule="rising", recorded=True)


QUESTIONS = {
    question.name: question
    for question in (
        Question("rates", "How wide is the range of learning rates that trains?", learning_rates),
        Question("spikes", "What does a spike cost?", spikes),
        Question("throttling", "How long does a spike hold the paper's rule back, and what helps?", throttling),
        Question("weight decay", "How much does weight decay matter?", weight_decay),
        Question("switching", "What does switching a running job cost?", switching),
        Question("low bit", "Does it help where numbers have few bits?", low_bit, owed=True),
        Question("default", "Which rule should be the default?", default),
        Question("asked for", "With warm-up and cosine, and against what reviewers ask for?", asked_for),
        Question("early warning", "Which signal warns of a run that will blow up?", early_warning),
    )
}
"""Those that trials answer. What it costs is measured by `cost`, and defaults are argued from all of them."""
