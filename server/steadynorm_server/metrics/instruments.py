"""The server's own metrics: requests, telemetry, Redis round trips, processes."""

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics_format
from redis.exceptions import RedisError

from steadynorm_contract import __version__
from steadynorm_server.metrics.store import StoreMetrics

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ServerMetrics:
    """This process' metrics. `own`: where further ones are registered; `registry`: what is exposed."""

    def __init__(self, dashboard_url: str | None = None) -> None:
        self.registry = self.own = registry = CollectorRegistry()
        self._requests = Histogram(
            "steadynorm_server_request_seconds",
            "Time from request to response; long-polls are not counted.",
            ("method", "route", "status"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._steps = Counter("steadynorm_server_ingest_steps", "Step scalars received.", registry=registry)
        self._rows = Counter("steadynorm_server_ingest_rows", "Per-parameter rows received.", registry=registry)
        self._bytes = Counter("steadynorm_server_ingest_bytes", "Bytes of telemetry received.", registry=registry)
        self._redis = Histogram(
            "steadynorm_server_store_seconds", "Time of a round trip to Redis.", buckets=_SECONDS, registry=registry
        )
        self._errors = Counter(
            "steadynorm_server_store_errors",
            "Round trips to Redis that failed, by error.",
            ("kind",),
            registry=registry,
        )
        self.ignored_identities = Counter(
            "steadynorm_server_ignored_identities",
            "Requests whose header named a person without coming from a trusted proxy.",
            registry=registry,
        )
        self.unwritten_audit_lines = Counter(
            "steadynorm_server_unwritten_audit_lines",
            "Lines of the audit stream (STEADYNORM_AUDIT_LOG) that could not be written.",
            registry=registry,
        )
        self.waiting = Gauge(
            "steadynorm_server_waiting_requests",
            "Long-polls waiting for a settings change.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.store = StoreMetrics(registry)
        self._omitted = Gauge(
            "steadynorm_server_omitted_series",
            "Per-parameter series left out of this scrape (STEADYNORM_TOP_PARAMETERS).",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        info = Gauge(
            "steadynorm_server_build_info",
            "Version of the server and of Python; always 1.",
            ("version", "python"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        info.labels(__version__, platform.python_version()).set(1)
        if dashboard_url:
            address = Gauge(
                "steadynorm_server_dashboard_info",
                "Address of the dashboard, for links in alerts and Grafana; always 1.",
                ("dashboard_url",),
                registry=registry,
                multiprocess_mode="livemax",
            )
            address.labels(dashboard_url.rstrip("/")).set(1)
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            self.registry = merged = CollectorRegistry()
            MultiProcessCollector(merged, folder)  # type: ignore[no-untyped-call]
            merged.register(_Processes(Path(folder)))
        else:
            ProcessCollector(registry=registry)  # start, CPU, memory and open files, by their usual names

    def record_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Record one request and its duration."""
        self._requests.labels(method, route, str(status)).observe(seconds)

    def record_ingest(self, steps: int, rows: int, size: int) -> None:
        """Count a telemetry batch of `size` bytes."""
        self._steps.inc(steps)
        self._rows.inc(rows)
        self._bytes.inc(size)

    def exposition(self, omitted: int, *, openmetrics: bool = False) -> bytes:
        """All metrics in Prometheus' text format, or as OpenMetrics with its end. omitted: series left out of this
        scrape."""
        self._omitted.set(omitted)
        if openmetrics:
            body: bytes = openmetrics_format.generate_latest(self.registry)  # type: ignore[no-untyped-call] # as it is
            return body
        return generate_latest(self.registry)

    @contextlib.contextmanager
    def redis_round_trip(self) -> Iterator[None]:
        """Time the block; count the error that it raises."""
        began = time.perf_counter()
        try:
            yield
        except (RedisError, OSError) as error:
            self._errors.labels(type(error).__name__).inc()
            raise
        finally:
            self._redis.observe(time.perf_counter() - began)


class _Processes:
    """ProcessCollector over all live workers: their sums, and the earliest start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Read /proc, at each scrape."""
        pids = {int(file.stem.rpartition("_")[2]) for file in self._folder.glob("gauge_live*.db")}
        found = [list(ProcessCollector(pid=partial(int, pid), registry=CollectorRegistry()).collect()) for pid in pids]
        for metrics in zip(*filter(None, found), strict=False):  # a worker that just ended has none
            merged, values = metrics[0], [metric.samples[0].value for metric in metrics]
            value = min(values) if merged.name.endswith("start_time_seconds") else sum(values)
            merged.samples = [merged.samples[0]._replace(value=value)]
            yield merged
