"""Charts of the server itself: latency, load and errors."""

from __future__ import annotations

from panels import Json, chart, query

__all__ = ["CHARTS"]

QUANTILES = (0.5, 0.95, 0.99)


def latency(metric: str) -> list[Json]:
    """Quantiles of a histogram, over all of its labels."""
    buckets = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    return [query(f"histogram_quantile({quantile}, {buckets})", f"p{100 * quantile:.0f}") for quantile in QUANTILES]


CHARTS = [
    chart(
        "Request latency",
        latency("steadynorm_server_request_seconds"),
        about="Request latency of all routes except the long-poll, which waits by design.",
        unit="s",
        log=True,
    ),
    chart(
        "Redis latency",
        latency("steadynorm_server_store_seconds"),
        about="Latency of round trips to Redis.",
        unit="s",
        log=True,
    ),
    chart(
        "Requests",
        [
            query(
                "sum by (route, status) (rate(steadynorm_server_request_seconds_count[$__rate_interval]))",
                "{{route}} {{status}}",
            )
        ],
        about="Requests by route and status.",
        unit="reqps",
    ),
    chart(
        "Telemetry received",
        [query("sum(rate(steadynorm_server_ingest_bytes_total[$__rate_interval]))", "bytes")],
        about="Telemetry bytes received, as MessagePack.",
        unit="Bps",
    ),
    chart(
        "Records received",
        [
            query("sum(rate(steadynorm_server_ingest_steps_total[$__rate_interval]))", "step scalars"),
            query("sum(rate(steadynorm_server_ingest_rows_total[$__rate_interval]))", "per-parameter rows"),
        ],
        about="Records received per second, over all runs.",
        unit="cps",
    ),
    chart(
        "Waiting requests",
        [query("sum by (instance) (steadynorm_server_waiting_requests)", "{{instance}}")],
        about="Open long-polls: each is an agent that waits for a change of settings.",
        defaults={"decimals": 0},
    ),
    chart(
        "Redis errors",
        [
            query(
                "sum by (kind) (rate(steadynorm_server_store_errors_total[$__rate_interval])) or vector(0)", "{{kind}}"
            )
        ],
        about="Failed round trips to Redis, by kind of error.",
        unit="ops",
    ),
    chart(
        "Memory",
        [query('process_resident_memory_bytes{job="steadynorm"}', "{{instance}}")],
        about="Resident memory of each server process; runs are stored in Redis.",
        unit="bytes",
    ),
]
