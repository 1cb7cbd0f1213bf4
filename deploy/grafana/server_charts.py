"""Charts of the server itself: is it fast enough, and what does it take in?"""

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
        about="Of all routes but the long-poll, which waits on purpose.",
        unit="s",
        log=True,
    ),
    chart(
        "Store latency",
        latency("steadynorm_server_store_seconds"),
        about="Round trips to Redis.",
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
        about="By route and status.",
        unit="reqps",
    ),
    chart(
        "Telemetry received",
        [query("sum(rate(steadynorm_server_ingest_bytes_total[$__rate_interval]))", "bytes")],
        about="MessagePack as it arrived.",
        unit="Bps",
    ),
    chart(
        "Records received",
        [
            query("sum(rate(steadynorm_server_ingest_steps_total[$__rate_interval]))", "step scalars"),
            query("sum(rate(steadynorm_server_ingest_rows_total[$__rate_interval]))", "per-parameter rows"),
        ],
        about="Per second, of all runs.",
        unit="cps",
    ),
    chart(
        "Waiting requests",
        [query("sum by (instance) (steadynorm_server_waiting_requests)", "{{instance}}")],
        about="Agents that wait for a change of settings, each in one open request.",
        defaults={"decimals": 0},
    ),
    chart(
        "Store errors",
        [
            query(
                "sum by (kind) (rate(steadynorm_server_store_errors_total[$__rate_interval])) or vector(0)", "{{kind}}"
            )
        ],
        about="Round trips to Redis that failed, by error.",
        unit="ops",
    ),
    chart(
        "Memory",
        [query('process_resident_memory_bytes{job="steadynorm"}', "{{instance}}")],
        about="Of each server process. Runs live in Redis: it does not grow with them.",
        unit="bytes",
    ),
]
