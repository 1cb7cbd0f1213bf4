"""Runs one trial."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
from study import methods, optimizers
from study.faults import Fault
from study.reviewers_methods import AroundStep
from study.precision import autocast, simulate_fp4
from study.tasks.language import Language
from study.tasks.registry import TASKS
from study.trial import CURVE_STEPS, Outcome, Trial
from torch import nn

__all__ = ["SCHEDULES", "THROTTLED", "run"]

THROTTLED = 0.3
WARM_UP = 0.1
"""Share of the steps in which the rate rises to its own, in the schedule `cosine`."""


def _cosine(done: float) -> float:
    """As the authors train: a linear warm-up, then half a cosine down to a tenth."""
    if done < WARM_UP:
        return done / WARM_UP
    return 0.55 + 0.45 * math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": _cosine,
    "rising": lambda done: 150.0**done,
}
"""Factor on the learning rate, by the share of the steps that is done."""

GIVE_UP = 10
"""After so many steps in a row whose loss is not finite, nothing will come any more."""


class _Switch:
    """What is done to the stabilizer in mid-run: on/AT/TRANSFER, off/AT/TRANSFER, reset/AT/, or nothing."""

    def __init__(self, text: str, method: methods.Method) -> None:
        self._what, at, transfer = text.split("/") if text else ("", "-1", "")
        self._at = int(at)
        self._method = method
        if self._what in ("on", "off"):
            self._configure(transfer=transfer, mode="observe" if self._what == "on" else "stabilize")

    def act(self, step: int) -> None:
        """Before the method's apply() of `step`, counted from 0."""
        if step != self._at:
            return
        if self._what == "reset":
            assert isinstance(self._method, methods.Stabilizer)
            self._method.stabilizer.reset()
        else:
            self._configure(mode="stabilize" if self._what == "on" else "observe")

    def _configure(self, **changes: object) -> None:
        if not isinstance(self._method, methods.Stabilizer):
            raise TypeError(f"only the stabilizer can be switched: got the method {type(self._method).__name__}")
        self._method.stabilizer.configure(**changes)


def run(trial: Trial, device: str = "cpu") -> Outcome:
    """Train. Everything that is drawn comes from the trial's seed, so that methods differ in nothing else."""
    torch.manual_seed(trial.seed)
    kind = TASKS[trial.task]
    task = kind.make(device, trial.seed)
    if trial.precision == "fp4":
        simulate_fp4(task.model)
    batches, faults = (torch.Generator().manual_seed(trial.seed + offset) for offset in (0, 10_000))
    parameters = list(task.model.parameters())
    method = methods.make(trial.method, task.model.named_parameters())
    optimizer = optimizers.make(trial.optimizer, parameters, trial.lr, trial.weight_decay)
    around = method if isinstance(method, AroundStep) else None
    if around:
        around.optimizer = optimizer
    fault, switch = Fault.parse(trial.fault), _Switch(trial.switch, method)
    scaler = torch.amp.GradScaler(device, enabled=trial.precision == "float16")

    losses: list[float] = []
    signals: list[str] = []
    throttled, smallest, bad, bad_now = 0, math.inf, 0, 0
    began = time.process_time()  # of this process alone: what else the machine does is not in it
    for step in range(trial.steps):
        with autocast(trial.precision, device):
            if fault and fault.spoils(step):
                assert isinstance(task, Language)
                loss = fault.factor * task.bad_loss(batches, faults)
            else:
                loss = task.loss(batches)
        losses.append(float(loss.detach()))
        bad_now = 0 if math.isfinite(losses[-1]) else bad_now + 1
        bad += bad_now > 0
        if bad_now == GIVE_UP:
            break
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if fault:
            fault.plant(step, parameters, faults)
        switch.act(step)
        if trial.schedule != "constant":
            for group in optimizer.param_groups:
                group["lr"] = trial.lr * SCHEDULES[trial.schedule]((step + 1) / trial.steps)
        if around:
            around.loss = losses[-1]
        if not (scaler.is_enabled() and _overflowed(parameters)):  # what the scaler skips reaches no hook of the agent
            method.apply()
            if isinstance(method, methods.Stabilizer) and (fault is None or step > fault.at):
                target = method.smallest_target()
                throttled += target < THROTTLED
                smallest = min(smallest, target)
        before = [parameter.detach().clone() for parameter in parameters] if trial.recorded else []
        if not (around and around.skips):
            scaler.step(optimizer)
        if around:
            around.after()
        if before:
            gradient = nn.utils.get_total_norm(each.grad for each in parameters if each.grad is not None)
            changes = [now.detach() - old for now, old in zip(parameters, before, strict=True)]
            signals.append(f"{losses[-1]:.4g} {float(gradient):.4g} {float(nn.utils.get_total_norm(changes)):.4g}")
        scaler.update()
    seconds = time.process_time() - began

    score = task.score() if bad_now < GIVE_UP else math.inf
    first, last = _mean(losses[:CURVE_STEPS]), _mean(losses[-CURVE_STEPS:])
    diverged = not math.isfinite(score) or not math.isfinite(last)
    points = [_mean(losses[at : at + CURVE_STEPS]) for at in range(0, len(losses), CURVE_STEPS)]
    return Outcome(
        score=math.inf if diverged else score,
        first=first,
        last=last,
        diverged=diverged,
        bad_steps=bad,
        throttled=throttled,
        target_min=smallest,
        seconds=seconds,
        curve=";".join(f"{point:.4g}" for point in points),
        signals=";".join(signals),
    )


def _overflowed(parameters: list[nn.Parameter]) -> bool:
    return not all(bool(parameter.grad.isfinite().all()) for parameter in parameters if parameter.grad is not None)


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if all(map(math.isfinite, values)) else math.nan
