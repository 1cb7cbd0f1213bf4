"""/metrics: what Redis knows of the runs that have not ended, and this process' own numbers.

A collector of values gathered for one scrape, without timestamps: a run that ended is not gathered, so its series
disappear. Never multiprocess mode: of the runs any process tells the same, of themselves each its own.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.registry import Collector

from steadynorm_contract.records import ROW_COLUMNS
from steadynorm_contract.settings import Mode
from steadynorm_contract.views import RunState
from steadynorm_server.reading import Reader
from steadynorm_server.record import RunRecord
from steadynorm_server.store import Store

__all__ = ["CONTENT_TYPE", "Meters", "Observed", "exposition", "gather"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LABELS = ("run_id", "run")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Meters:
    """This process' own metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            "steadynorm_server_request_seconds",
            "Time to answer a request; long-polls are not counted.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._steps = Counter("steadynorm_server_ingest_steps", "Step scalars received.", registry=self.registry)
        self._rows = Counter("steadynorm_server_ingest_rows", "Per-parameter rows received.", registry=self.registry)
        self._bytes = Counter("steadynorm_server_ingest_bytes", "Bytes of telemetry.", registry=self.registry)
        self._store = Histogram(
            "steadynorm_server_store_seconds",
            "Time of a round trip to Redis.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def ingested(self, steps: int, rows: int, size: int) -> None:
        """Count a telemetry batch of `size` bytes."""
        self._steps.inc(steps)
        self._rows.inc(rows)
        self._bytes.inc(size)

    @contextlib.contextmanager
    def store_round_trip(self) -> Iterator[None]:
        """Time the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._store.observe(time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Observed:
    """One run at the time of a scrape."""

    run: RunRecord
    ratios: dict[str, float]  # newest spike ratio of the parameters that are shown
    omitted: int  # how many are not


async def gather(store: Store, reader: Reader, top: int, forget_after_s: float) -> list[Observed]:
    """All runs that have not ended and were heard of within forget_after_s."""
    runs = await store.all()
    await store.note_silence(runs)
    now = store.clock()
    observed = []
    for run in runs:
        if run.state != RunState.RUNNING or run.silent_s(now) > forget_after_s:
            continue
        ratios = await _highest_ratios(store, reader, run, top) if top else {}
        observed.append(Observed(run, ratios, run.info.parameters - len(ratios)))
    return observed


async def _highest_ratios(store: Store, reader: Reader, run: RunRecord, top: int) -> dict[str, float]:
    row = await reader.newest_row(run)
    if row is None:
        return {}
    ratios = row.mean[-row.width :][ROW_COLUMNS.index("spike_ratio") :: len(ROW_COLUMNS)]
    table = await store.table(run)
    places = sorted(range(len(table)), key=lambda at: (-ratios[at] if math.isfinite(ratios[at]) else 0.0, at))
    return {table[at].name: ratios[at] for at in places[:top]}


def exposition(runs: Iterable[Observed], meters: Meters) -> bytes:
    """Everything as Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Runs(list(runs)))
    return generate_latest(registry) + generate_latest(meters.registry)


class _Runs(Collector):
    def __init__(self, runs: list[Observed]) -> None:
        self._runs = runs

    def describe(self) -> Iterable[Metric]:
        """Nothing to check for duplicates: this is the registry's only collector."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, each with one sample a run."""
        yield self._info()
        yield from self._gauges()
        yield from self._counters()
        yield self._modes()
        yield from self._parameters()

    def _info(self) -> Metric:
        info = GaugeMetricFamily(
            "steadynorm_run_info",
            "A run, and what its agent said of itself; always 1.",
            labels=[*_LABELS, "framework", "agent_version", "host", "world_size"],
        )
        for each in self._runs:
            about = each.run.info
            info.add_metric(
                [*_of(each.run), about.framework, about.agent_version, about.host, str(about.world_size)], 1
            )
        return info

    def _gauges(self) -> Iterator[Metric]:
        latest = {
            "loss": "Training loss, as logged.",
            "learning_rate": "Learning rate of the first parameter group, before lr_scale.",
            "raw_norm": "L2 norm of the whole gradient before the stabilizer.",
            "stabilized_norm": "L2 norm of the whole gradient after the stabilizer.",
            "target_min": "Smallest target of all parameters; below 0.3 a run is throttled.",
            "spike_ratio_max": "Largest norm over RMS norm of all parameters in the newest step.",
        }
        yield self._gauge("run_step", "Newest optimizer step.", lambda run: run.step)
        yield self._gauge(
            "run_last_seen_timestamp_seconds", "When telemetry came last, Unix time.", lambda run: run.last_seen
        )
        for name, text in latest.items():
            yield self._gauge(name, text, partial(_latest, name))
        yield self._gauge("gamma1", "Applied gamma1.", lambda run: run.applied.gamma1)
        yield self._gauge("gamma2", "Applied gamma2.", lambda run: run.applied.gamma2)
        yield self._gauge(
            "settings_desired_revision", "Revision that operators want.", lambda run: run.desired_revision
        )
        yield self._gauge(
            "settings_applied_revision", "Revision that the run applied.", lambda run: run.applied_revision
        )

    def _counters(self) -> Iterator[Metric]:
        spikes = CounterMetricFamily("steadynorm_spikes", "Spikes, a parameter and step each.", labels=_LABELS)
        nonfinite = CounterMetricFamily(
            "steadynorm_nonfinite", "Non-finite gradients, a parameter and step each.", labels=_LABELS
        )
        dropped = CounterMetricFamily(
            "steadynorm_agent_dropped", "Records that the agent could not deliver.", labels=_LABELS
        )
        mismatches = CounterMetricFamily(
            "steadynorm_rank_mismatches", "Times that a rank differed from its equals.", labels=_LABELS
        )
        for each in self._runs:
            progress = each.run.progress
            mismatches.add_metric(_of(each.run), progress.rank_mismatches)
            spikes.add_metric(_of(each.run), progress.spikes)
            nonfinite.add_metric(_of(each.run), progress.nonfinite)
            dropped.add_metric(_of(each.run), progress.past_dropped + progress.agent.dropped)
        yield from (spikes, nonfinite, dropped, mismatches)

    def _modes(self) -> Metric:
        modes = StateSetMetricFamily("steadynorm_mode", "Applied mode: 1 for the present one.", labels=_LABELS)
        for each in self._runs:
            modes.add_metric(_of(each.run), {mode.value: mode is each.run.applied.mode for mode in Mode})
        return modes

    def _parameters(self) -> Iterator[Metric]:
        ratios = GaugeMetricFamily(
            "steadynorm_parameter_spike_ratio",
            "Norm over RMS norm of the parameters where it is highest, in the newest row.",
            labels=[*_LABELS, "parameter"],
        )
        omitted = GaugeMetricFamily(
            "steadynorm_parameters_omitted", "Parameters without a spike ratio series of their own.", labels=_LABELS
        )
        for each in self._runs:
            for name, ratio in each.ratios.items():
                ratios.add_metric([*_of(each.run), name], ratio)
            omitted.add_metric(_of(each.run), each.omitted)
        yield from (ratios, omitted)

    def _gauge(self, name: str, text: str, value: Callable[[RunRecord], float | None]) -> Metric:
        gauge = GaugeMetricFamily(f"steadynorm_{name}", text, labels=_LABELS)
        for each in self._runs:
            if (number := value(each.run)) is not None:
                gauge.add_metric(_of(each.run), number)
        return gauge


def _latest(name: str, run: RunRecord) -> float | None:
    return run.progress.latest.get(name)


def _of(run: RunRecord) -> list[str]:
    return [run.run_id, run.name]
