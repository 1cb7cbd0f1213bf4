"""The dashboard of all runs: which is in trouble, since when, and the way to it."""

from __future__ import annotations

import server_charts
from frame import FLEET, SOURCE, STREAMLIT, choice, dashboard, run_links
from grid import Grid
from panels import BY_RUN, MODE, TROUBLE, Json, chart, limit, newest, number, panel, query

__all__ = ["make"]

CHOSEN = 'run=~"$run"'
TROUBLED = 'count by (run, run_id) (ALERTS{alertname=~"Steadynorm.+", alertstate="firing", run=~"$run"})'

NUMBERS = [
    number("Live runs", "count(max by (run_id) (steadynorm_run_info)) or vector(0)", about="Runs that have not ended."),
    number(
        "Alerts firing",
        f"count({TROUBLE}) or vector(0)",
        about="Of deploy/prometheus/rules.yml. What to do: docs/operations.md.",
        **limit(1),
    ),
    number(
        "Changes on their way",
        f"count({BY_RUN} (steadynorm_settings_desired_revision) > {BY_RUN} (steadynorm_settings_applied_revision))"
        " or vector(0)",
        about="Runs whose newest settings are wanted and not yet applied.",
    ),
    number(
        "Spikes, last hour",
        "sum(max by (run_id) (increase(steadynorm_spikes_total[1h]))) or vector(0)",
        about="Parameter-steps whose norm was above 10 times its RMS, over all runs.",
        decimals=0,
    ),
    number(
        "Non-finite, last hour",
        "sum(max by (run_id) (increase(steadynorm_nonfinite_total[1h]))) or vector(0)",
        about="Parameter-steps with a NaN or infinite gradient, over all runs.",
        decimals=0,
        **limit(1),
    ),
    number(
        "Records dropped, last hour",
        "sum(max by (run_id) (increase(steadynorm_agent_dropped_total[1h]))) or vector(0)",
        about="By agents whose buffer was full because the server could not be reached.",
        decimals=0,
        **limit(1),
    ),
]

COLUMNS: list[tuple[str, str, Json]] = [
    ("alerts", TROUBLED, {"unit": "none", **limit(1), "custom": {"cellOptions": {"type": "color-text"}}}),
    ("step", newest("run_step", CHOSEN), {"unit": "none", "decimals": 0}),
    ("loss", newest("loss", CHOSEN), {"decimals": 4}),
    (
        "smallest target",
        f"min by (run, run_id) (steadynorm_target_min{{{CHOSEN}}})",
        {"decimals": 2, **limit(0.3, below="red", above="text"), "custom": {"cellOptions": {"type": "color-text"}}},
    ),
    ("spikes", newest("spikes_total", CHOSEN), {"unit": "none", "decimals": 0}),
    ("non-finite", newest("nonfinite_total", CHOSEN), {"unit": "none", "decimals": 0}),
    ("mode", newest("mode", CHOSEN), {**MODE, "custom": {"cellOptions": {"type": "color-text"}}}),
    ("age", f"time() - {newest('run_started_timestamp_seconds', CHOSEN)}", {"unit": "s", "decimals": 0}),
    (
        "last heard",
        f"time() - {newest('run_last_seen_timestamp_seconds', CHOSEN)}",
        {
            "unit": "s",
            "decimals": 0,
            **limit(120, below="text"),
            "custom": {"cellOptions": {"type": "color-text"}},
        },
    ),
]


def _table() -> Json:
    letters = [chr(ord("A") + index) for index in range(len(COLUMNS))]
    names = [name for name, _, _ in COLUMNS]
    return panel(
        "Runs",
        "table",
        [query(expr, table=True) for _, expr, _ in COLUMNS],
        unit="none",
        about="Live runs, those with alerts first. A click leads to the run.",
        transformations=[
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {
                        name: at
                        for at, name in enumerate(["run", "run_id", *(f"Value #{letter}" for letter in letters)])
                    },
                    "renameByName": {f"Value #{letter}": name for letter, name in zip(letters, names, strict=True)},
                },
            },
        ],
        defaults={"links": run_links("${__data.fields.run_id}")},
        overrides=[
            {
                "matcher": {"id": "byName", "options": name},
                "properties": [{"id": key, "value": value} for key, value in _flat(look).items()],
            }
            for name, _, look in COLUMNS
        ],
        options={"sortBy": [{"displayName": "alerts", "desc": True}], "cellHeight": "sm"},
    )


def _flat(look: Json) -> Json:
    """Grafana names a property of `custom` in an override by its path."""
    nested = {f"custom.{key}": value for key, value in look.get("custom", {}).items()}
    return {**{key: value for key, value in look.items() if key != "custom"}, **nested}


LINKED: Json = {"links": run_links("${__field.labels.run_id}")}

WORST = [
    chart(
        "Most spiking runs",
        [query(f"topk(10, {BY_RUN} (changes(steadynorm_spikes_total{{{CHOSEN}}}[10m])))")],
        about="Scrapes of ten minutes that found new spikes: the ten highest. The alert fires at 8 of 40.",
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults={**limit(8), **LINKED},
    ),
    chart(
        "Most throttled runs",
        [query(f"bottomk(10, min by (run, run_id) (steadynorm_target_min{{{CHOSEN}}}))")],
        about="The ten smallest targets. About 1 in calm training, below 0.3 updates are held back by an old spike.",
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults={**limit(0.3, below="red", above="green"), **LINKED},
    ),
    chart(
        "Longest silent runs",
        [query(f"topk(10, time() - {newest('run_last_seen_timestamp_seconds', CHOSEN)})")],
        about="Seconds since the last telemetry, the ten longest. The alert fires at two minutes.",
        unit="s",
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults={**limit(120), **LINKED},
    ),
    chart(
        "Alerts firing",
        [query(f"count by (alertname) ({TROUBLE}) or vector(0)", "{{alertname}}")],
        about="Runs by what is wrong with them.",
        custom={"drawStyle": "bars", "fillOpacity": 60, "stacking": {"mode": "normal"}},
        defaults={"decimals": 0},
    ),
]

HISTORY = [
    chart(
        "Runs",
        [query("steadynorm:runs:count", "live runs")],
        about="How many trained, kept by a recording rule after the runs' own series are gone.",
        defaults={"decimals": 0},
    ),
    chart(
        "Optimizer steps",
        [query("steadynorm:steps:rate5m", "steps")],
        about="Per second, over all runs.",
        unit="ops",
    ),
    chart(
        "Spikes and non-finite gradients",
        [query("steadynorm:spikes:rate5m", "spikes"), query("steadynorm:nonfinite:rate5m", "non-finite")],
        about="Parameter-steps per second, over all runs.",
        unit="ops",
    ),
]


def make() -> Json:
    """The dashboard's JSON."""
    grid = Grid().row(NUMBERS, height=4).row([_table()], height=10)
    grid.section("Worst of the chosen runs", WORST)
    grid.section("The fleet", HISTORY)
    grid.section("Server", server_charts.CHARTS)
    return dashboard(
        FLEET,
        "steadynorm: all runs",
        [SOURCE, choice("run", "run", "label_values(steadynorm_run_info, run)", several=True), STREAMLIT],
        grid.panels,
        outside=("steadynorm", "layers, incidents, settings", "${dashboard_url:raw}"),
    )
