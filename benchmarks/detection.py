"""What is told of spikes and throttling: false alarms in runs without a fault, and how soon a planted fault is told.

    python benchmarks/detection.py [--seeds 4] [--steps 400] [--norms FILE]

Trains every task of the study with each of its optimizers and seeds (40 runs), and keeps each tensor's norms; with
--norms they are read from the file where it exists. The norms go through the agent's statistics and summary and the
server's events, as they were and with faults planted in the middle. Prints a table, then one JSON object; exits with 1
if a clean run is told as throttled, a planted spike is not told, or its throttling later than after five steps.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from steadynorm import GradientStabilizer
from steadynorm.stabilizer.statistics import RING_COLUMNS
from steadynorm.stabilizer.summary import summarize
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.telemetry import SCALAR_COLUMNS
from steadynorm_server.runs.events import Scalars, Signals, observe

LATEST = 5
"""Steps after which throttling must have been told."""

FACTORS = (30.0, 300.0, 1e3, 1e4)


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a run. targets: float32 [steps, parameters]; spiking: how many in each step."""

    events: list[Event]
    targets: Tensor
    spiking: list[float]

    def steps(self, kind: EventKind) -> list[int]:
        """The steps of the events of a kind, counted from 0."""
        return [event.step for event in self.events if event.kind is kind]


def tell(norms: Tensor) -> Told:
    """The events of a run with these norms, float32 [steps, parameters]; a NaN is a gradient that is not finite."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(norms.shape[1])]
    stabilizer = GradientStabilizer((f"p{index}", parameter) for index, parameter in enumerate(parameters))
    rows = []
    for step in norms:
        for parameter, norm in zip(parameters, step, strict=True):
            parameter.grad = norm.reshape(1).clone()
        stabilizer.apply()
        rows.append(stabilizer.rows.clone())
    recorded = torch.stack(rows)
    columns = dict(zip(SCALAR_COLUMNS, summarize(recorded).t().tolist(), strict=True))
    at = range(len(norms))
    scalars = Scalars(at, [float(step) for step in at], *(columns[name] for name in Scalars.__struct_fields__[2:]))
    events = observe(Signals(), scalars, lambda index: f"p{int(index)}")
    return Told(events, recorded[..., RING_COLUMNS.index("target")], columns["spikes"])


def planted(norms: Tensor, factors: Mapping[int, float]) -> Tensor:
    """A copy with all norms of those steps multiplied."""
    copy = norms.clone()
    for step, factor in factors.items():
        copy[step] *= factor
    return copy


def delay(clean: Told, faulty: Told, after: int) -> int | None:
    """Steps from the beginning of the first throttling to its event; None where there is none.

    A tensor is throttled by the fault where that at least halves its target, to less than 0.3, for LATEST steps in a
    row. A run that is not told counts as its whole length.
    """
    held = (faulty.targets < THROTTLED_TARGET) & (clean.targets >= 2 * faulty.targets)
    lasting = held.unfold(0, LATEST, 1).all(-1).any(1)  # by first step
    began = [step for step in range(after, len(lasting)) if bool(lasting[step])]
    if not began:
        return None
    told = [step for step in faulty.steps(EventKind.THROTTLED) if step >= after]
    return told[0] - began[0] if told else len(held)


def record(seeds: int, steps: int) -> dict[str, Tensor]:
    """The norms of each run by its name, float32 [steps, parameters]."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "research"))
    methods, optimizers = (importlib.import_module(f"study.{name}") for name in ("methods", "optimizers"))
    tasks = importlib.import_module("study.tasks.registry").TASKS  # research/ is not type-checked

    norms = {}
    for seed in range(seeds):
        for name, kind in tasks.items():
            if name == "language-large":  # for a GPU
                continue
            for optimizer_name, rate in kind.rates.items():
                torch.manual_seed(seed)
                task, generator = kind.make("cpu", seed), torch.Generator().manual_seed(seed)
                method = methods.make("paper", task.model.named_parameters())
                optimizer = optimizers.make(optimizer_name, list(task.model.parameters()), rate, 0.0)
                rows = []
                for _ in range(min(kind.steps, steps)):
                    loss = task.loss(generator)
                    optimizer.zero_grad()
                    loss.backward()
                    method.apply()
                    rows.append(method.stabilizer.rows[:, 0].clone())
                    optimizer.step()
                norms[f"{name}/{optimizer_name}/{seed}"] = torch.stack(rows)
                print(f"recorded {name}, {optimizer_name}, seed {seed}", flush=True)
    return norms


def judge(name: str, norms: Tensor) -> dict[str, object]:
    """What is told of one run, clean and with each fault."""
    norms = norms.clamp_min(0.0)
    clean, middle = tell(norms), len(norms) // 2
    delays: dict[str, int | None] = {}
    missed = 0
    for factor in FACTORS:
        faulty = tell(planted(norms, {middle: factor}))
        missed += factor >= 100 and middle not in _spiking(faulty)
        delays[f"{factor:g}"] = delay(clean, faulty, middle)
    several = {middle: 1e4, middle + 30: 300.0, middle + 45: 1e3}
    missed += len(several.keys() - _spiking(tell(planted(norms, several))))
    early = tell(planted(norms, {8: 1e3}))
    missed += 8 not in _spiking(early)
    delays["early"] = delay(clean, early, 8)
    return {
        "run": name,
        "steps": len(norms),
        "tensors": norms.shape[1],
        "small_targets": int((clean.targets < THROTTLED_TARGET).any(1).sum()),
        "spikes": int(sum(clean.spiking)),
        "throttled": len(clean.steps(EventKind.THROTTLED)),
        "missed": missed,
        "delays": delays,
    }


def _spiking(told: Told) -> set[int]:
    return {step for step, count in enumerate(told.spiking) if count}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400, help="of each run, at most")
    parser.add_argument("--norms", type=Path, help="file to keep the norms in, or to read them from")
    options = parser.parse_args()
    if options.norms and options.norms.exists():
        norms = torch.load(options.norms)
    else:
        norms = record(options.seeds, options.steps)
        if options.norms:
            torch.save(norms, options.norms)
    found = [judge(name, run) for name, run in norms.items()]
    print(f"\n{'run':<24} {'small targets':>13} {'spikes':>7} {'throttled':>9} {'missed':>7}  delays")
    for one in found:
        print(
            f"{one['run']:<24} {one['small_targets']:>13} {one['spikes']:>7} {one['throttled']:>9} {one['missed']:>7}  "
            + " ".join(f"{fault}:{'-' if late is None else late}" for fault, late in one["delays"].items())  # type: ignore[attr-defined]
        )
    late = [value for one in found for value in one["delays"].values() if value is not None]  # type: ignore[attr-defined]
    result = {
        "runs": len(found),
        "tensors": _sum(found, "tensors"),
        "steps_with_small_targets": _sum(found, "small_targets"),
        "spikes_without_a_fault": _sum(found, "spikes"),
        "false_alarms": _sum(found, "throttled"),
        "planted_spikes_missed": _sum(found, "missed"),
        "planted_throttlings": len(late),
        "latest_steps": max(late, default=0),
    }
    print(json.dumps(result))
    if result["false_alarms"] or result["planted_spikes_missed"] or max(late, default=0) > LATEST:
        raise SystemExit(1)


def _sum(found: Sequence[Mapping[str, object]], name: str) -> int:
    return sum(one[name] for one in found)  # type: ignore[misc]


if __name__ == "__main__":
    main()
