"""The dashboard of one run: its health, its settings, and links to its page in steadynorm."""

from __future__ import annotations

from frame import ANNOTATIONS, RUN, SOURCE, STREAMLIT, choice, dashboard
from grid import Grid
from panels import BY_RUN, LEGEND, MODE, TROUBLE, Json, chart, limit, newest, number, panel, query, signal_chart

from steadynorm_contract.rule import SPIKE_RATIO, THROTTLED_TARGET
from steadynorm_contract.signals import signal

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
    number("Loss", now("loss"), about=signal("loss").description, decimals=4),
    number("Mode", now("mode"), about="Applied mode: off, observe, clip or stabilize.", **MODE),
    number(
        "Smallest target",
        f"min by (run, run_id) (steadynorm_target_min{{{CHOSEN}}})",
        about=signal("target_min").description,
        decimals=2,
        **limit(THROTTLED_TARGET, below="red", above="green"),
    ),
    number(
        "Last telemetry",
        f"time() - {now('run_last_seen_timestamp_seconds')}",
        about="Time since the last telemetry. The alert fires at two minutes.",
        unit="s",
        decimals=0,
        **limit(120),
    ),
    number(
        "Alerts firing",
        f"count({TROUBLE.replace('}', f', {CHOSEN}}}')}) or vector(0)",
        about="Alerts of this run. Runbook: docs/operations.md.",
        **limit(1),
    ),
    number(
        "Pending revisions",
        f"{now('settings_desired_revision')} - {now('settings_applied_revision')}",
        about="Desired minus applied revision: above 0 a change of settings is not applied yet.",
        decimals=0,
        **limit(1, above="orange"),
    ),
    number(
        "Age",
        f"time() - {now('run_started_timestamp_seconds')}",
        about="Time since the run was first registered.",
        unit="s",
        decimals=0,
    ),
]

CHARTS = [
    signal_chart("loss", [line("loss")]),
    chart(
        "Gradient norm",
        [line("raw_norm", "raw"), line("stabilized_norm", "stabilized")],
        about="L2 norm of the gradient over all parameters, before and after the stabilizer.",
        log=True,
    ),
    signal_chart(
        "target_min",
        [query(f"min by (run, run_id) (steadynorm_target_min{{{CHOSEN}}})", "smallest target")],
        custom={"thresholdsStyle": {"mode": "dashed+area"}},
        defaults={"min": 0, **limit(THROTTLED_TARGET, below="red", above="transparent")},
    ),
    signal_chart(
        "spike_ratio_max",
        [line("spike_ratio_max", "largest spike ratio")],
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults=limit(SPIKE_RATIO),
    ),
    chart(
        "Parameters with the largest spike ratio",
        [query(PER_PARAMETER, "{{parameter}}")],
        about="The highest only, STEADYNORM_TOP_PARAMETERS of them; the next chart counts the others.",
        log=True,
        custom={"thresholdsStyle": {"mode": "dashed"}},
        defaults=limit(SPIKE_RATIO),
    ),
    chart(
        "Parameters without a series of their own",
        [line("parameters_omitted", "omitted")],
        about="Steadynorm's dashboard shows all parameters, in the heat map and in the table.",
        defaults={"decimals": 0},
    ),
    chart(
        "Spikes and non-finite gradients",
        [
            query(f"{BY_RUN} (increase(steadynorm_{name}_total{{{CHOSEN}}}[$__rate_interval]))", legend)
            for name, legend in (("spikes", "spikes"), ("nonfinite", "non-finite"))
        ],
        about="Parameters that spiked or had a NaN or infinite gradient, counted once in each step.",
        custom={"drawStyle": "bars", "fillOpacity": 60},
    ),
    chart(
        "Optimizer steps",
        [query(f"{BY_RUN} (deriv(steadynorm_run_step{{{CHOSEN}}}[$__rate_interval]))", "steps")],
        about=signal("steps_per_s").description,
        unit="ops",
    ),
]

SETTINGS = [
    panel(
        "Mode",
        "state-timeline",
        [line("mode", "mode")],
        unit="none",
        about="Applied mode: off, observe, clip or stabilize.",
        defaults=MODE,
        options={"mergeValues": True, "showValue": "auto", "legend": {"showLegend": False}},
    ),
    chart(
        "Settings revision",
        [line("settings_desired_revision", "desired"), line("settings_applied_revision", "applied")],
        about="While the two differ a change of settings is not applied yet.",
        custom={"lineInterpolation": "stepAfter"},
        defaults={"decimals": 0},
    ),
    chart(
        "Memory of the statistics",
        [query(f"0.6931 / (1 - {now(name)})", f"{name} half-life") for name in ("gamma1", "gamma2")],
        about="Half-lives of the moving averages, about ln 2 / (1 - gamma1) and ln 2 / (1 - gamma2) optimizer steps.",
        unit="suffix: steps",
        log=True,
        custom={"lineInterpolation": "stepAfter"},
    ),
    chart(
        "Spike ceiling",
        [query(f"(1 - {now('gamma1')}) / sqrt(1 - {now('gamma2')})", "spike ceiling")],
        about="(1 - gamma1) / √(1 - gamma2): the limit of a single spike's target, however large the spike is.",
        custom={"lineInterpolation": "stepAfter"},
    ),
    signal_chart("learning_rate", [line("learning_rate", "learning rate")], unit="sci"),
    chart(
        "Telemetry and ranks",
        [
            line("agent_dropped_total", "records dropped"),
            line("agent_errors_total", "agent errors"),
            line("rank_mismatches_total", "rank mismatches"),
        ],
        about="Records dropped, agent errors and rank mismatches since the run began; all should be 0.",
        defaults={"decimals": 0},
    ),
]

ALERTS = panel(
    "Alerts of this run",
    "table",
    [query(f"max by (alertname, severity) ({TROUBLE.replace('}', f', {CHOSEN}}}')})", table=True)],
    unit="none",
    about="Alerts that fire on this run; a click opens the runbook.",
    transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}],
    defaults={
        "noValue": "none",
        "links": [
            {
                "title": "runbook",
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
