"""The dashboard of all runs: which need attention, since when, and links to them."""

from __future__ import annotations

import server_charts
from frame import FLEET, SOURCE, STREAMLIT, choice, dashboard, run_links
from grid import Grid
from panels import BY_RUN, MODE, TROUBLE, Json, chart, limit, newest, number, panel, query

from steadynorm_contract.rule import THROTTLED_TARGET
from steadynorm_contract.signals import signal

__all__ = ["make"]

CHOSEN = 'run=~"$run"'
TROUBLED = 'count by (run, run_id) (ALERTS{alertname=~"Steadynorm.+", alertstate="firing", run=~"$run"})'

NUMBERS = [
    number("Live runs", "count(max by (run_id) (steadynorm_run_info)) or vector(0)", about="Runs that have not ended."),
    number(
        "Alerts firing",
        f"count({TROUBLE}) or vector(0)",
        about="Alerts of deploy/prometheus/rules.yml. Runbook: docs/operations.md.",
        **limit(1),
    ),
    number(
        "Pending changes",
        f"count({BY_RUN} (steadynorm_settings_desired_revision) > {BY_RUN} (steadynorm_settings_applied_revision))"
        " or vector(0)",
        about="Runs whose newest settings are not applied yet.",
    ),
    number(
        "Spikes, last hour",
        "sum(max by (run_id) (increase(steadynorm_spikes_total[1h]))) or vector(0)",
        about=signal("spikes").description,
        decimals=0,
    ),
    number(
        "Non-finite, last hour",
        "sum(max by (run_id) (increase(steadynorm_nonfinite_total[1h]))) or vector(0)",
        about=signal("nonfinite").description,
        decimals=0,
        **limit(1),
    ),
    number(
        "Records dropped, last hour",
        "sum(max by (run_id) (increase(steadynorm_agent_dropped_total[1h]))) or vector(0)",
        about="Records that agents dropped because the server was unreachable and their buffer full.",
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
        {
            "decimals": 2,
            **limit(THROTTLED_TARGET, below="red", above="text"),
            "custom": {"cellOptions": {"type": "color-text"}},
        },
    ),
    ("spikes", newest("spikes_total", CHOSEN), {"unit": "none", "decimals": 0}),
    ("non-finite", newest("nonfinite_total", CHOSEN), {"unit": "none", "decimals": 0}),
    ("mode", newest("mode", CHOSEN), {**MODE, "custom": {"cellOptions": {"type": "color-text"}}}),
    ("age", f"time() - {newest('run_started_timestamp_seconds', CHOSEN)}", {"unit": "s", "decimals": 0}),
    (
        "last telemetry",
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
        about="Live runs, those with alerts first; a click opens the run.",
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
        about="The ten runs with the most scrapes within ten minutes that saw new spikes; the alert fires at 8 of 40.",
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults={**limit(8), **LINKED},
    ),
    chart(
        "Most throttled runs",
        [query(f"bottomk(10, min by (run, run_id) (steadynorm_target_min{{{CHOSEN}}}))")],
        about="The ten runs with the smallest targets. " + signal("target_min").description,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults={**limit(THROTTLED_TARGET, below="red", above="green"), **LINKED},
    ),
    chart(
        "Longest silent runs",
        [query(f"topk(10, time() - {newest('run_last_seen_timestamp_seconds', CHOSEN)})")],
        about="Time since the last telemetry, the ten longest; the alert fires at two minutes.",
        unit="s",
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults={**limit(120), **LINKED},
    ),
    chart(
        "Alerts firing",
        [query(f"count by (alertname) ({TROUBLE}) or vector(0)", "{{alertname}}")],
        about="Firing alerts by name.",
        custom={"drawStyle": "bars", "fillOpacity": 60, "stacking": {"mode": "normal"}},
        defaults={"decimals": 0},
    ),
]

HISTORY = [
    chart(
        "Runs",
        [query("steadynorm:runs:count", "live runs")],
        about="Live runs over time, from a recording rule that outlives the runs' own series.",
        defaults={"decimals": 0},
    ),
    chart(
        "Optimizer steps",
        [query("steadynorm:steps:rate5m", "steps")],
        about="Optimizer steps per second, over all runs.",
        unit="ops",
    ),
    chart(
        "Spikes and non-finite gradients",
        [query("steadynorm:spikes:rate5m", "spikes"), query("steadynorm:nonfinite:rate5m", "non-finite")],
        about="Per second, over all runs; a parameter counts once in each step.",
        unit="ops",
    ),
]


def make() -> Json:
    """The dashboard's JSON."""
    grid = Grid().row(NUMBERS, height=4).row([_table()], height=10)
    grid.section("Worst of the selected runs", WORST)
    grid.section("The fleet", HISTORY)
    grid.section("Server", server_charts.CHARTS)
    return dashboard(
        FLEET,
        "steadynorm: all runs",
        [SOURCE, choice("run", "run", "label_values(steadynorm_run_info, run)", several=True), STREAMLIT],
        grid.panels,
        outside=("steadynorm", "layers, incidents, settings", "${dashboard_url:raw}"),
    )
