"""All runs in Prometheus' text format or as OpenMetrics. Written directly: the client library's objects cost more.

Each run's labels are escaped once, and a family is one loop over the runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.utils import floatToGoString

from steadynorm_contract.settings import Mode
from steadynorm_contract.signals import SCALARS, signal
from steadynorm_contract.telemetry import RecoveryStatus
from steadynorm_server.runs.record import RunRecord


@dataclass(frozen=True, slots=True)
class Observed:
    """One run at the time of a scrape."""

    run: RunRecord
    ratios: dict[str, float]  # newest spike ratios of the parameters with series of their own
    omitted: int  # how many have none
    connected: bool = True  # whether its agent sent telemetry or polled for settings lately
    listening: bool = True  # whether it polled
    scalars: Sequence[tuple[str, float]] = ()  # logged ones with series of their own: name and newest value
    scalars_omitted: int = 0  # how many have none


_number: Callable[[float], str] = floatToGoString

_LATEST = [each for each in SCALARS if each.metric and not each.metric.endswith("_total")]
_GAUGES: dict[str, tuple[str, Callable[[RunRecord], float]]] = {
    "run_step": ("Newest optimizer step.", lambda run: run.step),
    "run_started_timestamp_seconds": ("Unix time of the run's first registration.", lambda run: run.started),
    "run_last_seen_timestamp_seconds": ("Unix time of the newest telemetry.", lambda run: run.last_seen),
    "throttled": (
        "1 while a spike in the statistics holds updates back, else 0.",
        lambda run: run.progress.signals.throttled,
    ),
    "falling": (
        "1 while targets stay small without a spike, since norms fall faster than gamma2 forgets, else 0.",
        lambda run: run.progress.signals.falling,
    ),
    "gamma1": ("gamma1 in force.", lambda run: run.applied.gamma1),
    "gamma2": ("gamma2 in force.", lambda run: run.applied.gamma2),
    "settings_desired_revision": ("Revision of the desired settings.", lambda run: run.desired_revision),
    "settings_applied_revision": (
        "Revision of the settings that the run has applied.",
        lambda run: run.applied_revision,
    ),
}
_COUNTERS: dict[str, tuple[str, Callable[[RunRecord], float]]] = {
    "spikes": (signal("spikes").description, lambda run: run.progress.spikes),
    "nonfinite": (signal("nonfinite").description, lambda run: run.progress.nonfinite),
    "tensors_faded": (signal("faded").description, lambda run: run.progress.faded),
    "agent_dropped": (
        "Records that the agent dropped because it could not deliver them.",
        lambda run: run.progress.past_dropped + run.progress.agent.dropped,
    ),
    "agent_sinks_dropped": (
        "Rows and events that sinks of the agent, such as wandb, lost.",
        lambda run: run.progress.past_sinks_dropped + run.progress.agent.sinks_dropped,
    ),
    "agent_errors": (
        "Internal errors of the agent; one inside an optimizer step turns it off.",
        lambda run: run.progress.past_errors + run.progress.agent.errors,
    ),
    "rollbacks": ("Rollbacks to a snapshot, by detectors and by people.", lambda run: run.progress.rollbacks),
    "rank_mismatches": ("Rank mismatches detected.", lambda run: run.progress.rank_mismatches),
}


_RECOVERY: dict[str, tuple[str, Callable[[RunRecord, RecoveryStatus], float | None]]] = {
    "recovery_budget_left": (
        "Automatic rollbacks that are left until the run is paused or asked to stop.",
        lambda run, recovery: recovery.budget_left,
    ),
    "snapshot_age_steps": (
        "Steps since the newest good snapshot that the run can be rolled back to.",
        lambda run, recovery: run.step - recovery.snapshots[-1] if recovery.snapshots else None,
    ),
}
"""Of runs whose agent keeps snapshots."""

_UNRECOVERABLE = "1 once rollbacks no longer help a run, until its settings are changed; an hour more if it ended so."

_SIGNS: dict[str, tuple[str, Callable[[Observed], bool]]] = {
    "run_paused": ("1 while an operator has the run paused, else 0.", lambda each: each.run.applied.paused),
    "run_connected": (
        "1 if the run's agent sent telemetry or polled for settings lately; 0: its process is gone, or cut off.",
        lambda each: each.connected,
    ),
    "run_listening": (
        "1 if the run's agent polled for settings lately, else 0. A long step or evaluation does not end it.",
        lambda each: each.listening,
    ),
}


def render(runs: Sequence[Observed], *, openmetrics: bool = False) -> bytes:
    """All families, each with its samples of each run. openmetrics: a counter's family has no `_total` in its name.

    Of a run that ended there is only that it was unrecoverable.
    """
    labels = [_labels(run=each.run.name, run_id=each.run.run_id) for each in runs]
    return "".join(_lines(runs, labels, "" if openmetrics else "_total")).encode("utf-8", "replace")


def _lines(runs: Sequence[Observed], labels: Sequence[str], total: str) -> Iterator[str]:
    every = list(zip(runs, labels, strict=True))
    pairs = [(each, label) for each, label in every if each.run.is_live]
    yield _head("run_info", "gauge", "A run and its agent, described by labels; always 1.")
    yield from (f"steadynorm_run_info{{{_about(each.run)}}} 1.0\n" for each, _ in pairs)
    yield _head("unrecoverable", "gauge", _UNRECOVERABLE)
    for each, label in every:
        yield f"steadynorm_unrecoverable{{{label}}} {float(each.run.progress.given_up is not None)}\n"
    for name, (text, value) in _GAUGES.items():
        yield _head(name, "gauge", text)
        yield from (f"steadynorm_{name}{{{label}}} {_number(value(each.run))}\n" for each, label in pairs)
    for name, (text, holds) in _SIGNS.items():
        yield _head(name, "gauge", text)
        yield from (f"steadynorm_{name}{{{label}}} {float(holds(each))}\n" for each, label in pairs)
    for scalar in _LATEST:
        yield _head(scalar.name, "gauge", scalar.description)
        for each, label in pairs:
            if (number := each.run.progress.latest.get(scalar.name)) is not None:
                yield f"{scalar.metric}{{{label}}} {_number(number)}\n"
    for name, (text, known) in _RECOVERY.items():
        yield _head(name, "gauge", text)
        for each, label in pairs:
            recovery = each.run.progress.recovery
            if recovery is not None and (number := known(each.run, recovery)) is not None:
                yield f"steadynorm_{name}{{{label}}} {_number(number)}\n"
    for name, (text, value) in _COUNTERS.items():
        yield _head(f"{name}{total}", "counter", text)
        yield from (f"steadynorm_{name}_total{{{label}}} {_number(value(each.run))}\n" for each, label in pairs)
    yield _head("mode", "gauge", "Mode in force: 1 for that one, 0 for the others.")
    for each, label in pairs:
        for mode in Mode:
            yield f'steadynorm_mode{{{label},steadynorm_mode="{mode}"}} {float(mode is each.run.applied.mode)}\n'
    yield _head("parameter_spike_ratio", "gauge", "Newest spike ratio of the parameters where it is highest.")
    for each, label in pairs:
        for parameter, ratio in each.ratios.items():
            yield (f'steadynorm_parameter_spike_ratio{{parameter="{_escaped(parameter)}",{label}}} {_number(ratio)}\n')
    yield _head("scalar", "gauge", "Newest value of a scalar that the training loop logs under a name of its own.")
    for each, label in pairs:
        for logged, newest in each.scalars:
            yield f'steadynorm_scalar{{name="{_escaped(logged)}",{label}}} {_number(newest)}\n'
    yield _head("scalars_omitted", "gauge", "Logged scalars without a series of their own.")
    yield from (f"steadynorm_scalars_omitted{{{label}}} {float(each.scalars_omitted)}\n" for each, label in pairs)
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
