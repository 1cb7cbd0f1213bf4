"""The dashboard of one run: how it does, what was changed, and the way to its page in steadynorm."""

from __future__ import annotations

from frame import ANNOTATIONS, RUN, SOURCE, STREAMLIT, choice, dashboard
from grid import Grid
from panels import BY_RUN, LEGEND, MODE, TROUBLE, Json, chart, limit, newest, number, panel, query

__all__ = ["make"]

CHOSEN = 'run_id=~"$run_id"'
PER_PARAMETER = (
    f'max by (run, run_id, parameter) (steadynorm_parameter_spike_ratio{{{CHOSEN}, parameter=~"$parameter"}})'
)


def now(name: str) -> str:
    """The newest value."""
    return newest(name, CHOSEN)


def line(name: str, legend: str = LEGEND) -> Json:
    """One value over time."""
    return query(now(name), legend)


NUMBERS = [
    number("Step", now("run_step"), about="Newest optimizer step.", decimals=0),
    number("Loss", now("loss"), about="As the training loop logged it last.", decimals=4),
    number("Mode", now("mode"), about="off, observe or stabilize, as the run applied it.", **MODE),
    number(
        "Smallest target",
        f"min by (run, run_id) (steadynorm_target_min{{{CHOSEN}}})",
        about="Of all parameters. Below 0.3 the run is throttled.",
        decimals=2,
        **limit(0.3, below="red", above="green"),
    ),
    number(
        "Last heard of",
        f"time() - {now('run_last_seen_timestamp_seconds')}",
        about="Time since the last telemetry. The alert fires at two minutes.",
        unit="s",
        decimals=0,
        **limit(120),
    ),
    number(
        "Alerts firing",
        f"count({TROUBLE.replace('}', f', {CHOSEN}}}')}) or vector(0)",
        about="On this run. What to do: docs/operations.md.",
        **limit(1),
    ),
    number(
        "Change on its way",
        f"{now('settings_desired_revision')} - {now('settings_applied_revision')}",
        about="How many revisions the run is behind the settings that operators want.",
        decimals=0,
        **limit(1, above="orange"),
    ),
    number(
        "Age",
        f"time() - {now('run_started_timestamp_seconds')}",
        about="Since the run was registered first.",
        unit="s",
        decimals=0,
    ),
]

CHARTS = [
    chart("Loss", [line("loss")], about="As the training loop logged it."),
    chart(
        "Gradient norm",
        [line("raw_norm", "raw"), line("stabilized_norm", "stabilized")],
        about="L2 norm over all parameters, before and after the stabilizer.",
        log=True,
    ),
    chart(
        "Smallest target",
        [query(f"min by (run, run_id) (steadynorm_target_min{{{CHOSEN}}})", "smallest target")],
        about="About 1 in calm training. Below 0.3 the run is throttled: a spike's energy is still in the mean square.",
        custom={"thresholdsStyle": {"mode": "dashed+area"}},
        defaults={"min": 0, **limit(0.3, below="red", above="transparent")},
    ),
    chart(
        "Largest spike ratio",
        [line("spike_ratio_max", "largest spike ratio")],
        about="Largest norm over its previous RMS, of all parameters. Above 10 it counts as a spike.",
        log=True,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults=limit(10),
    ),
    chart(
        "Parameters with the largest spike ratio",
        [query(PER_PARAMETER, "{{parameter}}")],
        about="The top ones only, STEADYNORM_TOP_PARAMETERS of them; the next chart counts the rest.",
        log=True,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults=limit(10),
    ),
    chart(
        "Parameters without a series of their own",
        [line("parameters_omitted", "omitted")],
        about="All of them are in steadynorm's dashboard, in the heat map and in the table.",
        defaults={"decimals": 0},
    ),
    chart(
        "Spikes and non-finite gradients",
        [
            query(f"{BY_RUN} (increase(steadynorm_{name}_total{{{CHOSEN}}}[$__rate_interval]))", legend)
            for name, legend in (("spikes", "spikes"), ("nonfinite", "non-finite"))
        ],
        about="Parameter-steps per interval.",
        custom={"drawStyle": "bars", "fillOpacity": 60},
    ),
    chart(
        "Optimizer steps",
        [query(f"{BY_RUN} (deriv(steadynorm_run_step{{{CHOSEN}}}[$__rate_interval]))", "steps")],
        about="Steps per second.",
        unit="ops",
    ),
]

SETTINGS = [
    panel(
        "Mode",
        "state-timeline",
        [line("mode", "mode")],
        unit="none",
        about="off, observe or stabilize, as the run applied it.",
        defaults=MODE,
        options={"mergeValues": True, "showValue": "auto", "legend": {"showLegend": False}},
    ),
    chart(
        "Settings revision",
        [line("settings_desired_revision", "desired"), line("settings_applied_revision", "applied")],
        about="A gap between the two is a change on its way.",
        custom={"lineInterpolation": "stepAfter"},
        defaults={"decimals": 0},
    ),
    chart(
        "Memory of the statistics",
        [query(f"0.6931 / (1 - {now(name)})", f"{name} half-life") for name in ("gamma1", "gamma2")],
        about="Half-lives of gamma1 and gamma2, about ln 2 / (1-gamma), in optimizer steps.",
        unit="suffix: steps",
        log=True,
        custom={"lineInterpolation": "stepAfter"},
    ),
    chart(
        "Spike ceiling",
        [query(f"(1 - {now('gamma1')}) / sqrt(1 - {now('gamma2')})", "spike ceiling")],
        about="(1-gamma1)/√(1-gamma2): the largest magnitude that a single spike can get, however large it is.",
        custom={"lineInterpolation": "stepAfter"},
    ),
    chart("Learning rate", [line("learning_rate", "learning rate")], about="Of the first group.", unit="sci"),
    chart(
        "Telemetry and ranks",
        [
            line("agent_dropped_total", "records dropped"),
            line("agent_errors_total", "errors of the agent"),
            line("rank_mismatches_total", "rank mismatches"),
        ],
        about="Totals of what should stay zero.",
        defaults={"decimals": 0},
    ),
]

ALERTS = panel(
    "Alerts of this run",
    "table",
    [query(f"max by (alertname, severity) ({TROUBLE.replace('}', f', {CHOSEN}}}')})", table=True)],
    unit="none",
    about="A click opens what to do.",
    transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}],
    defaults={
        "noValue": "none",
        "links": [
            {
                "title": "what to do",
                "url": "${dashboard_url:raw}/?runbook=${__data.fields.alertname}&run=${run_id}",
                "targetBlank": True,
            }
        ],
    },
)


def make() -> Json:
    """The dashboard's JSON."""
    grid = Grid().row(NUMBERS, height=4).section("Training", CHARTS)
    grid.section("Settings and transport", SETTINGS).section("Alerts", [ALERTS])
    return dashboard(
        RUN,
        "steadynorm: one run",
        [
            SOURCE,
            choice("run_id", "run", "label_values(steadynorm_run_info, run_id)"),
            choice(
                "parameter",
                "parameter",
                f"label_values(steadynorm_parameter_spike_ratio{{{CHOSEN}}}, parameter)",
                several=True,
            ),
            STREAMLIT,
        ],
        grid.panels,
        annotations=ANNOTATIONS,
        outside=("this run in steadynorm", "its layers, incidents and settings", "${dashboard_url:raw}/?run=${run_id}"),
    )
