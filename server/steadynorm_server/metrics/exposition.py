"""Prometheus' text format of all runs, written straight rather than through the client library's objects.

Each run's labels are escaped once, and a family is one loop over the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.utils import floatToGoString

from steadynorm_contract.settings import Mode
from steadynorm_server.runs.record import RunRecord

__all__ = ["Observed", "render"]


@dataclass(frozen=True, slots=True)
class Observed:
    """One run at the time of a scrape."""

    run: RunRecord
    ratios: dict[str, float]  # newest spike ratio of the parameters that are shown
    omitted: int  # how many are not


_number: Callable[[float], str] = floatToGoString

_LATEST = {
    "loss": "Training loss, as logged.",
    "learning_rate": "Learning rate of the first parameter group, before lr_scale.",
    "raw_norm": "L2 norm of the whole gradient before the stabilizer.",
    "stabilized_norm": "L2 norm of the whole gradient after the stabilizer.",
    "target_min": "Smallest target of all parameters; below 0.3 a run is throttled.",
    "spike_ratio_max": "Largest norm over RMS norm of all parameters in the newest step.",
}
_GAUGES: dict[str, tuple[str, Callable[[RunRecord], float]]] = {
    "run_step": ("Newest optimizer step.", lambda run: run.step),
    "run_started_timestamp_seconds": ("When the run was registered first, Unix time.", lambda run: run.started),
    "run_last_seen_timestamp_seconds": ("When telemetry came last, Unix time.", lambda run: run.last_seen),
    "gamma1": ("Applied gamma1.", lambda run: run.applied.gamma1),
    "gamma2": ("Applied gamma2.", lambda run: run.applied.gamma2),
    "settings_desired_revision": ("Revision that operators want.", lambda run: run.desired_revision),
    "settings_applied_revision": ("Revision that the run applied.", lambda run: run.applied_revision),
}
_COUNTERS: dict[str, tuple[str, Callable[[RunRecord], float]]] = {
    "spikes": ("Spikes, a parameter and step each.", lambda run: run.progress.spikes),
    "nonfinite": ("Non-finite gradients, a parameter and step each.", lambda run: run.progress.nonfinite),
    "agent_dropped": (
        "Records that the agent could not deliver.",
        lambda run: run.progress.past_dropped + run.progress.agent.dropped,
    ),
    "agent_errors": (
        "Errors of the agent itself; the first one in a step turns it off.",
        lambda run: run.progress.past_errors + run.progress.agent.errors,
    ),
    "rank_mismatches": ("Times that a rank differed from its equals.", lambda run: run.progress.rank_mismatches),
}


def render(runs: Sequence[Observed]) -> bytes:
    """All families, each with its samples of each run."""
    labels = [_labels(run=each.run.name, run_id=each.run.run_id) for each in runs]
    return "".join(_lines(runs, labels)).encode("utf-8", "replace")


def _lines(runs: Sequence[Observed], labels: Sequence[str]) -> Iterator[str]:
    pairs = list(zip(runs, labels, strict=True))
    yield _head("run_info", "gauge", "A run, and what its agent said of itself; always 1.")
    yield from (f"steadynorm_run_info{{{_about(each.run)}}} 1.0\n" for each in runs)
    for name, (text, value) in _GAUGES.items():
        yield _head(name, "gauge", text)
        yield from (f"steadynorm_{name}{{{label}}} {_number(value(each.run))}\n" for each, label in pairs)
    for name, text in _LATEST.items():
        yield _head(name, "gauge", text)
        for each, label in pairs:
            if (number := each.run.progress.latest.get(name)) is not None:
                yield f"steadynorm_{name}{{{label}}} {_number(number)}\n"
    for name, (text, value) in _COUNTERS.items():
        yield _head(f"{name}_total", "counter", text)
        yield from (f"steadynorm_{name}_total{{{label}}} {_number(value(each.run))}\n" for each, label in pairs)
    yield _head("mode", "gauge", "Applied mode: 1 for the present one.")
    for each, label in pairs:
        for mode in Mode:
            yield f'steadynorm_mode{{{label},steadynorm_mode="{mode}"}} {float(mode is each.run.applied.mode)}\n'
    yield _head(
        "parameter_spike_ratio", "gauge", "Norm over RMS norm of the parameters where it is highest, in the newest row."
    )
    for each, label in pairs:
        for parameter, ratio in each.ratios.items():
            yield (f'steadynorm_parameter_spike_ratio{{parameter="{_escaped(parameter)}",{label}}} {_number(ratio)}\n')
    yield _head("parameters_omitted", "gauge", "Parameters without a spike ratio series of their own.")
    yield from (f"steadynorm_parameters_omitted{{{label}}} {float(each.omitted)}\n" for each, label in pairs)


def _head(name: str, kind: str, text: str) -> str:
    return f"# HELP steadynorm_{name} {text}\n# TYPE steadynorm_{name} {kind}\n"


def _about(run: RunRecord) -> str:
    about = run.info
    return _labels(
        agent_version=about.agent_version,
        framework=about.framework,
        host=about.host,
        run=run.name,
        run_id=run.run_id,
        world_size=str(about.world_size),
    )


def _labels(**labels: str) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
