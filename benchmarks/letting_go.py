"""How `spike_fade` should let go of a lasting rise: what each way costs then, and what it leaves of a spike's harm.

    OMP_NUM_THREADS=1 python benchmarks/letting_go.py [--seeds 8] [--optimizers sgd,adamw]

A factor on the target fades steps whose norm is above 3 times what it is compared with. Compared are: never letting go;
patience, which stops after so many such steps in a row; and `baseline`, the product's way, which compares with the
larger of the RMS norm and the baseline, so that it lets go as the baseline follows. Each run trains the study's
character GPT for 250 steps: calm; with the loss ten times as large from half-time on; with ten steps in a row of 100
times the norm in random directions; and with random targets and ten times the loss in every 20th batch. Prints the
final score minus that of spike_limit 3 without fading (nats, mean and deviation over seeds), then one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "research"))

from steadynorm_contract import rule
from steadynorm_contract.settings import Mode, Settings

optimizers, language = (importlib.import_module(f"study.{name}") for name in ("optimizers", "tasks.language"))

STEPS = 250
LIMIT = 3.0
RATES = {"sgd": 0.03, "adamw": 0.01, "lion": 0.003}
SCENES = ("calm", "rise", "burst", "bad batches")

Factor = Callable[[rule.TensorState, float, int], float]
"""Of the target, from the state before the step, the norm, and the number of steps in a row above the limit."""


def _weight(norm: float, compared: float) -> float:
    return min(1.0, LIMIT * compared / norm) ** 2


def _patience(steps: float) -> Factor:
    return lambda state, norm, row: _weight(norm, state.norm_rms) if row <= steps else 1.0


def _baseline(state: rule.TensorState, norm: float, row: int) -> float:
    return _weight(norm, max(state.norm_rms, state.baseline))


WAYS: dict[str, Factor] = {
    "limit 3, no fading": lambda state, norm, row: 1.0,
    "never": _patience(math.inf),
    "patience 10": _patience(10),
    "patience 5": _patience(5),
    "baseline": _baseline,
}


class Faded:
    """The rule with spike_limit 3 and a factor on the target."""

    def __init__(self, parameters: list[nn.Parameter], factor: Factor) -> None:
        self._parameters, self._factor = parameters, factor
        self._states = [rule.TensorState() for _ in parameters]
        self._rows = [0] * len(parameters)
        self._settings = Settings(spike_limit=LIMIT)

    def apply(self) -> None:
        """Change the gradients."""
        for at, (parameter, state) in enumerate(zip(self._parameters, self._states, strict=True)):
            gradient = parameter.grad
            if gradient is None:
                continue
            norm, factor = float(gradient.norm()), 1.0
            if norm > 0 and math.isfinite(norm):
                spiking = state.norm_rms > 0 and norm > LIMIT * state.norm_rms
                self._rows[at] = self._rows[at] + 1 if spiking else 0
                factor = self._factor(state, norm, self._rows[at]) if state.norm_rms > 0 else 1.0
            outcome = rule.advance(state, norm, self._settings, Mode.STABILIZE)
            gradient.mul_(outcome.scale * factor) if not outcome.zeroed else gradient.zero_()


def train(scene: str, optimizer: str, way: str, seed: int) -> float:
    """The score at the end."""
    torch.manual_seed(seed)
    task = language.Language("cpu")
    batches, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 10_000)
    parameters = list(task.model.parameters())
    method, stepper = Faded(parameters, WAYS[way]), optimizers.make(optimizer, parameters, RATES[optimizer], 0.0)
    for step in range(STEPS):
        if scene == "bad batches" and step % 20 == 10:
            stepper.zero_grad()
            window = torch.randint(0, 64, (16, 33), generator=noise)
            logits = task.model(window[:, :-1])
            loss = 10 * nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
        else:
            loss = task.loss(batches) * (10 if scene == "rise" and step >= STEPS // 2 else 1)
            stepper.zero_grad()
        loss.backward()
        if scene == "burst" and STEPS // 2 <= step < STEPS // 2 + 10:
            for parameter in parameters:
                if parameter.grad is not None:
                    drawn = torch.randn(parameter.shape, generator=noise)
                    parameter.grad.copy_(drawn * (100 * parameter.grad.norm() / drawn.norm()))
        method.apply()
        stepper.step()
    return float(task.score())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--optimizers", default="sgd,adamw")
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, *others = WAYS
    rows = []
    for optimizer in options.optimizers.split(","):
        for scene in options.scenes.split(","):
            reference = [train(scene, optimizer, first, 10 + seed) for seed in range(options.seeds)]
            for way in others:
                if way not in options.ways:
                    continue
                costs = [train(scene, optimizer, way, 10 + seed) - score for seed, score in enumerate(reference)]
                mean, spread = statistics.fmean(costs), statistics.stdev(costs)
                print(f"{optimizer:6} {scene:12} {way:12} {mean:+.4f} ± {spread:.4f}", flush=True)
                rows.append({"optimizer": optimizer, "scene": scene, "way": way, "costs": costs})
    print(json.dumps({"seeds": options.seeds, "steps": STEPS, "rows": rows}))


if __name__ == "__main__":
    main()
