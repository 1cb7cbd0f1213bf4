"""The Grafana dashboard as code: `python deploy/grafana/generate.py` writes dashboards/steadynorm.json beside it.

Edit here, never the JSON. `--check` compares instead of writing, and a test runs it. Every expression that is drawn
stands here once; the end-to-end test evaluates each of them against a real Prometheus.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from panels import DATASOURCE, LEGEND, RUN, Json, chart, layout, limit, number, panel, query, variable

TARGET = Path(__file__).parent / "dashboards" / "steadynorm.json"

NUMBERS = [
    number("Live runs", "count(steadynorm_run_info) or vector(0)", about="Runs that have not ended."),
    number(
        "Alerts firing",
        'count(ALERTS{alertname=~"Steadynorm.+", alertstate="firing"}) or vector(0)',
        about="Of deploy/prometheus/rules.yml. What to do: docs/operations.md.",
        red_from=1,
    ),
    number(
        "Changes on their way",
        "count(steadynorm_settings_desired_revision > steadynorm_settings_applied_revision) or vector(0)",
        about="Runs whose newest settings are wanted and not yet applied.",
    ),
    number(
        "Spikes, last hour",
        "sum(increase(steadynorm_spikes_total[1h])) or vector(0)",
        about="Parameter-steps whose norm was above 10 times its RMS, over all runs.",
    ),
    number(
        "Non-finite, last hour",
        "sum(increase(steadynorm_nonfinite_total[1h])) or vector(0)",
        about="Parameter-steps with a NaN or infinite gradient, over all runs.",
        red_from=1,
    ),
    number(
        "Records dropped, last hour",
        "sum(increase(steadynorm_agent_dropped_total[1h])) or vector(0)",
        about="By agents whose buffer was full because the server could not be reached.",
        red_from=1,
    ),
]

CHARTS = [
    chart("Loss", [query(f"steadynorm_loss{RUN}")], about="As the training loop logged it."),
    chart(
        "Gradient norm",
        [
            query(f"steadynorm_raw_norm{RUN}", f"raw {LEGEND}"),
            query(f"steadynorm_stabilized_norm{RUN}", f"stabilized {LEGEND}"),
        ],
        about="L2 norm over all parameters, before and after the stabilizer.",
        log=True,
    ),
    chart(
        "Smallest target",
        [query(f"steadynorm_target_min{RUN}")],
        about="About 1 in calm training. Below 0.3 the run is throttled: a spike's energy is still in the mean square.",
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults=limit(0.3, "red", "green"),
    ),
    chart(
        "Largest spike ratio",
        [query(f"steadynorm_spike_ratio_max{RUN}")],
        about="Largest norm over its previous RMS, of all parameters. Above 10 it counts as a spike.",
        log=True,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults=limit(10, "green", "red"),
    ),
    chart(
        "Parameters with the largest spike ratio",
        [query(f"steadynorm_parameter_spike_ratio{RUN}", "{{parameter}} of {{run}}")],
        about="The top ones only, as the server is configured; steadynorm_parameters_omitted counts the rest.",
        log=True,
    ),
    chart(
        "Spikes and non-finite gradients",
        [
            query(f"increase(steadynorm_spikes_total{RUN}[$__rate_interval])", f"spikes {LEGEND}"),
            query(f"increase(steadynorm_nonfinite_total{RUN}[$__rate_interval])", f"non-finite {LEGEND}"),
        ],
        about="Parameter-steps per interval.",
        custom={"drawStyle": "bars", "fillOpacity": 60},
    ),
    chart(
        "Spike ceiling",
        [query(f"(1 - steadynorm_gamma1{RUN}) / sqrt(1 - steadynorm_gamma2{RUN})")],
        about="(1-gamma1)/√(1-gamma2): the largest magnitude that a single spike can get, however large it is.",
    ),
    chart(
        "Decay settings",
        [
            query(f"steadynorm_gamma1{RUN}", f"gamma1 {LEGEND}"),
            query(f"steadynorm_gamma2{RUN}", f"gamma2 {LEGEND}"),
        ],
        about="gamma1 and gamma2 in force.",
        custom={"lineInterpolation": "stepAfter"},
    ),
    chart(
        "Settings revision",
        [
            query(f"steadynorm_settings_desired_revision{RUN}", f"desired {LEGEND}"),
            query(f"steadynorm_settings_applied_revision{RUN}", f"applied {LEGEND}"),
        ],
        about="A gap between the two is a change on its way.",
        custom={"lineInterpolation": "stepAfter"},
        defaults={"decimals": 0},
    ),
    chart("Learning rate", [query(f"steadynorm_learning_rate{RUN}")], about="Of the first group.", unit="sci"),
    chart(
        "Optimizer steps",
        [query(f"deriv(steadynorm_run_step{RUN}[$__rate_interval])")],
        about="Steps per second.",
        unit="ops",
    ),
    chart(
        "Last heard of",
        [query(f"time() - steadynorm_run_last_seen_timestamp_seconds{RUN}")],
        about="Seconds since the last telemetry. The alert fires at two minutes.",
        unit="s",
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults=limit(120, "green", "red"),
    ),
]

QUANTILES = (0.5, 0.95, 0.99)


def latency(metric: str) -> list[Json]:
    """Quantiles of a histogram, over all of its labels."""
    buckets = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    return [query(f"histogram_quantile({quantile}, {buckets})", f"p{100 * quantile:.0f}") for quantile in QUANTILES]


SERVER_CHARTS = [
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
]

TABLE = panel(
    "Runs",
    "table",
    [
        query("steadynorm_run_step", instant=True),
        query("steadynorm_loss", instant=True),
        query("steadynorm_target_min", instant=True),
        query("steadynorm_spikes_total", instant=True),
    ],
    unit="none",
    about="Live runs. A click opens the run in steadynorm's dashboard.",
    transformations=[
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True, "__name__": True, "instance": True, "job": True},
                "renameByName": {
                    "Value #A": "step",
                    "Value #B": "loss",
                    "Value #C": "smallest target",
                    "Value #D": "spikes",
                },
            },
        },
    ],
    defaults={
        "links": [{"title": "open in steadynorm", "url": "${dashboard_url}/?run=${__data.fields.run_id}"}],
    },
)

VARIABLES: list[Json] = [
    {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
    variable("run", "run", "label_values(steadynorm_run_info, run)"),
    variable("run_id", "run id", 'label_values(steadynorm_run_info{run=~"$run"}, run_id)'),
    {
        "name": "dashboard_url",
        "label": "steadynorm's dashboard",
        "type": "textbox",
        "query": "http://localhost:8501",
        "current": {"text": "http://localhost:8501", "value": "http://localhost:8501"},
    },
]

CHANGES: Json = {
    "name": "changes applied",
    "datasource": DATASOURCE,
    "enable": True,
    "expr": f"changes(steadynorm_settings_applied_revision{RUN}[1m]) > 0",
    "titleFormat": "settings of {{run}} changed",
    "step": "15s",
    "iconColor": "blue",
}


def dashboard() -> Json:
    """The whole dashboard."""
    return {
        "uid": "steadynorm",
        "title": "steadynorm: training runs",
        "description": "Made by deploy/grafana/generate.py: edit that, not this.",
        "tags": ["steadynorm", "training"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": VARIABLES},
        "annotations": {"list": [CHANGES]},
        "links": [
            {
                "title": "steadynorm",
                "type": "link",
                "url": "${dashboard_url}",
                "targetBlank": True,
                "icon": "external link",
            }
        ],
        "panels": layout(NUMBERS, TABLE, {"Chosen runs": CHARTS, "Server": SERVER_CHARTS}),
    }


def render() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file; with --check say whether it is up to date."""
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") == render():
            return 0
        print(f"{TARGET.name} is not what generate.py makes: run `python deploy/grafana/generate.py`", file=sys.stderr)
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
