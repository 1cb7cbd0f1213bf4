"""What the OpenTelemetry SDK's exporters take, out of the text of /metrics and out of events."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from steadynorm_contract import __version__
from steadynorm_contract.events import Event, EventKind

_SCOPE = InstrumentationScope("steadynorm", __version__)
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_UNKNOWN: tuple[Any, Any] = (None, None)  # smallest and largest value of a histogram
_GRAVE = {EventKind.UNRECOVERABLE, EventKind.AGENT_ERROR, EventKind.RANK_FAILED, EventKind.NONFINITE}
_CALM = {EventKind.STARTED, EventKind.ENDED, EventKind.RESUMED, EventKind.RECOVERED}


def metrics_data(text: bytes, of_runs: Resource | None, of_server: Resource | None) -> MetricsData:
    """The families of /metrics, under the same names.

    of_runs: of the families of runs, which all servers have alike. of_server: of the others, which each counts by
    itself. None: without these.
    """
    now = time.time_ns()
    families = list(text_string_to_metric_families(text.decode("utf-8", "replace")))
    # A collector takes a count that begins at another time for one from zero, so it must not depend on who sends it.
    began = {
        each.labels.get("run_id", ""): int(each.value * 1e9)
        for family in families
        if family.name in ("steadynorm_run_started_timestamp_seconds", "process_start_time_seconds")
        for each in family.samples
    }
    sent = []
    for resource, runs in ((of_runs, True), (of_server, False)):
        some = [each for each in families if any("run_id" in one.labels for one in each.samples) is runs]
        if resource is not None and (metrics := [made for each in some if (made := _metric(each, began, now))]):
            sent.append(ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], ""))
    return MetricsData(sent)


def log_record(run_id: str, run: str, event: Event, resource: Resource) -> ReadableLogRecord:
    """An event of a run."""
    grave, calm = event.kind in _GRAVE, event.kind in _CALM
    severity = SeverityNumber.ERROR if grave else SeverityNumber.INFO if calm else SeverityNumber.WARN
    attributes: dict[str, Any] = {
        "steadynorm.run_id": run_id, "steadynorm.run": run, "steadynorm.event_id": event.id,
        "steadynorm.step": event.step, "steadynorm.value": event.value, "steadynorm.parameter": event.parameter,
        "steadynorm.batch_id": event.batch_id,
    }  # fmt: skip
    record = LogRecord(
        timestamp=int(event.time * 1e9),
        observed_timestamp=time.time_ns(),
        severity_number=severity,
        severity_text=severity.name,
        body=event.message,
        attributes={name: value for name, value in attributes.items() if value is not None},
        event_name=f"steadynorm.{event.kind.value}",
    )
    return ReadableLogRecord(record, resource, _SCOPE)


def _metric(family: Family, began: Mapping[str, int], now: int) -> Metric | None:
    """began: when the counters began (Unix ns), by the run's id; the server's own under an empty one."""
    about = (family.name, family.documentation, "")
    samples = [each for each in family.samples if not each.name.endswith("_created")]
    if family.type == "histogram":
        known = list(_histograms(samples, began.get("", 0), now))
        return Metric(*about, Histogram(known, _CUMULATIVE)) if known else None
    points = [
        NumberDataPoint(each.labels, began.get(each.labels.get("run_id", ""), 0), now, each.value)
        for each in samples
        if each.value == each.value
    ]
    if not points:
        return None
    if family.type == "counter":
        return Metric(f"{family.name}_total", *about[1:], Sum(points, _CUMULATIVE, True))
    return Metric(*about, Gauge([NumberDataPoint(each.attributes, 0, now, each.value) for each in points]))


def _histograms(samples: Sequence[Any], since_ns: int, now: int) -> Iterable[HistogramDataPoint]:
    found: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for each in samples:
        labels = {name: value for name, value in each.labels.items() if name != "le"}
        one = found.setdefault(tuple(sorted(labels.items())), {"buckets": [], "sum": 0.0, "count": 0})
        if each.name.endswith("_bucket"):
            one["buckets"].append((float(each.labels["le"]), int(each.value)))
        elif each.name.endswith("_sum"):
            one["sum"] = each.value
        elif each.name.endswith("_count"):
            one["count"] = int(each.value)
    for key, one in found.items():
        buckets = sorted(one["buckets"])
        below = [0, *(count for _, count in buckets)]
        counts = [after - before for before, after in itertools.pairwise(below)]
        bounds = [bound for bound, _ in buckets[:-1]]  # the last one is infinite
        yield HistogramDataPoint(dict(key), since_ns, now, one["count"], one["sum"], counts, bounds, *_UNKNOWN)
