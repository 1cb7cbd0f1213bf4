"""What switching the stabilizer on and off does to a running training: bumpless transfer against the paper's bare rule.

    python benchmarks/hot_switch.py [--steps 500] [--optimizers adamw,sgd] [--threads 1] [--json FILE]

The demo's character GPT, same seed and same batches in every run. Shown is the mean loss of the last 20 steps, how far
that is from the run that nobody touched, and the jolt: how far the mean loss of any 20 steps in a row after half-time
rises above the untouched run's. The last rows use a whole agent, which comes to a run that trains, or leaves it. All by
the paper's rule: without spikes the default does the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from steadynorm import GradientStabilizer, attach

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from char_gpt import CharGPT, load_text, loss_of, sample_batch  # the examples are no package

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.03, momentum=0.9),
}


@dataclass(frozen=True)
class Schedule:
    """The mode of every step: `first` until a switch, then the other, and back, every `every` steps."""

    label: str
    first: str
    every: int | None = None
    once: bool = False
    transfer: str = "bumpless"

    def mode(self, step: int) -> str:
        """Mode of `step`, counted from 0."""
        switches = step // self.every if self.every else 0
        if self.once:
            switches = min(switches, 1)
        other = "stabilize" if self.first == "observe" else "observe"
        return other if switches % 2 else self.first


def schedules(steps: int) -> list[Schedule]:
    """What is compared, the untouched run first."""
    half = steps // 2
    return [
        Schedule("untouched", "observe"),
        Schedule("stabilized throughout", "stabilize"),
        Schedule("toggled every 25 steps, bumpless", "observe", 25),
        Schedule("toggled every 25 steps, plain", "observe", 25, transfer="plain"),
        Schedule("switched on half-way, bumpless", "observe", half, once=True),
        Schedule("switched on half-way, plain", "observe", half, once=True, transfer="plain"),
        Schedule("switched off half-way, bumpless", "stabilize", half, once=True),
        Schedule("switched off half-way, plain", "stabilize", half, once=True, transfer="plain"),
    ]


@dataclass(frozen=True)
class Stay:
    """An agent's time in the run, in halves of it, and how it comes and goes."""

    label: str
    comes_late: bool = False  # at half-time, to a run that trained without it
    observe_steps: int | None = None
    leaves: str = ""  # at half-time: "detach" or "close"


STAYS = [
    Stay("attached to a resumed run", comes_late=True),
    Stay("attached to it, stabilizing at once", comes_late=True, observe_steps=0),
    Stay("detached half-way", leaves="detach"),
    Stay("closed half-way, nothing folded", leaves="close"),
]


def train_with_agent(stay: Stay, optimizer_name: str, steps: int, seed: int) -> list[float]:
    """Losses of every step, in nats a character."""
    torch.manual_seed(seed)
    text, vocabulary = load_text()
    generator = torch.Generator().manual_seed(seed)
    model = CharGPT(vocabulary)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    agent = None if stay.comes_late else attach(model, optimizer, preset="paper")
    losses: list[float] = []
    for step in range(steps):
        if step == steps // 2:
            if agent is None:
                agent = attach(model, optimizer, preset="paper", observe_steps=stay.observe_steps)
            elif stay.leaves == "detach":
                agent.detach()
            elif stay.leaves == "close":
                agent.close()
        loss = loss_of(model, *sample_batch(text, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if agent is not None:
        agent.close()
    return losses


def train(schedule: Schedule, optimizer_name: str, steps: int, seed: int) -> list[float]:
    """Losses of every step, in nats a character."""
    torch.manual_seed(seed)
    text, vocabulary = load_text()
    generator = torch.Generator().manual_seed(seed)
    model = CharGPT(vocabulary)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    stabilizer = GradientStabilizer(model.named_parameters(), mode=schedule.first, transfer=schedule.transfer)
    losses: list[float] = []
    for step in range(steps):
        loss = loss_of(model, *sample_batch(text, generator))
        optimizer.zero_grad()
        loss.backward()
        if (mode := schedule.mode(step)) != stabilizer.settings.mode:
            stabilizer.configure(mode=mode)
        stabilizer.apply()
        optimizer.step()
        losses.append(loss.item())
    return losses


def largest_rise(losses: list[float], untouched: list[float], window: int = 20) -> float:
    """How far the mean of `window` losses in a row rises above that of the same steps of `untouched`, at most."""
    rises = [loss - other for loss, other in zip(losses, untouched, strict=True)]
    return max(statistics.fmean(rises[at : at + window]) for at in range(len(rises) - window + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimizers", default="adamw,sgd")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--only", default="", help="parts of labels, such as attached,detached; default: all")
    parser.add_argument("--json", type=Path, help="write every loss to this file too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.getLogger("steadynorm").setLevel(logging.ERROR)  # that there is no server is meant
    print(f"torch {torch.__version__}, {options.steps} steps, seed {options.seed}; means of 20 losses\n")
    print(f"{'optimizer':<10} {'schedule':<36} {'loss':>8} {'against untouched':>18} {'jolt':>9}", flush=True)
    curves: dict[str, list[float]] = {}
    for name in options.optimizers.split(","):
        untouched: list[float] = []
        half = options.steps // 2
        cases: list[Schedule | Stay] = [*schedules(options.steps), *STAYS]
        for case in cases:
            if options.only and not any(part in case.label for part in ("untouched", *options.only.split(","))):
                continue
            if isinstance(case, Schedule):
                losses = train(case, name, options.steps, options.seed)
            else:
                losses = train_with_agent(case, name, options.steps, options.seed)
            curves[f"{name}/{case.label}"] = losses
            untouched = untouched or losses
            final = statistics.fmean(losses[-20:])
            change = final - statistics.fmean(untouched[-20:])
            jolt = largest_rise(losses[half:], untouched[half:])
            print(f"{name:<10} {case.label:<36} {final:>8.4f} {change:>+18.4f} {jolt:>+9.4f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(curves) + "\n")


if __name__ == "__main__":
    main()
