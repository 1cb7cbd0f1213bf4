"""The parts of a dashboard around its panels: variables, annotations and links."""

from __future__ import annotations

from typing import Any

from panels import BY_RUN, DATASOURCE, TROUBLE, Json

__all__ = ["ANNOTATIONS", "FLEET", "RUN", "SOURCE", "STREAMLIT", "choice", "dashboard", "run_links"]

FLEET, RUN = "steadynorm-fleet", "steadynorm-run"
"""uids of the dashboards, which make their addresses."""

SOURCE: Json = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def choice(name: str, label: str, values: str, *, several: bool = False, hidden: bool = False) -> Json:
    """A variable: a list to choose from, filled by a Prometheus query."""
    every = {"includeAll": True, "multi": True, "allValue": ".+", "current": {"text": ["All"], "value": ["$__all"]}}
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": values, "refId": name},
        "definition": values,
        "refresh": 2,  # whenever the time range changes: runs come and go
        "sort": 1,
        "hide": 2 if hidden else 0,
        **(every if several else {"includeAll": False, "multi": False}),
    }


STREAMLIT = choice(
    "dashboard_url",
    "steadynorm's dashboard",
    "label_values(steadynorm_server_dashboard_info, dashboard_url)",
    hidden=True,
)
"""The server exports its dashboard's address (STEADYNORM_DASHBOARD_URL), so Grafana needs no setting for it."""


def run_links(run_id: str) -> list[Json]:
    """Links from a value of one run to that run's pages. run_id: Grafana's expression for it at that place."""
    return [
        {
            "title": "this run in Grafana",
            "url": f"/d/{RUN}?var-run_id={run_id}&${{datasource:queryparam}}&${{__url_time_range}}",
        },
        {
            "title": "this run in steadynorm: layers, incidents, settings",
            "url": f"${{dashboard_url:raw}}/?run={run_id}",
            "targetBlank": True,
        },
    ]


def _mark(name: str, expr: str, title: str, color: str, about: str, *, enabled: bool = True) -> Json:
    # Consecutive samples make one region: a change is a mark of a minute's length, and no scrape can miss it.
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": enabled,
        "expr": expr,
        "titleFormat": title,
        "textFormat": about,
        "tagKeys": "run_id",
        "step": "15s",
        "iconColor": color,
    }


def _moved(metric: str) -> str:
    return f'{BY_RUN} (changes(steadynorm_{metric}{{run_id=~"$run_id"}}[1m])) > 0'


ANNOTATIONS: list[Json] = [
    _mark(
        "changes requested",
        _moved("settings_desired_revision"),
        "settings changed",
        "purple",
        "An operator changed the settings. Who, what and why: steadynorm's dashboard, or steadynorm audit {{run_id}}.",
    ),
    _mark(
        "changes applied",
        _moved("settings_applied_revision"),
        "settings applied",
        "blue",
        "The run applied new settings. Which: steadynorm's dashboard, or steadynorm audit {{run_id}}.",
    ),
    _mark(
        "spikes",
        _moved("spikes_total"),
        "spikes",
        "orange",
        "Gradient norms above 10 times their baseline. Which layer went first: the incident in steadynorm's dashboard.",
    ),
    _mark(
        "non-finite gradients",
        _moved("nonfinite_total"),
        "NaN or infinite gradients",
        "red",
        "Which layer went first: the incident in steadynorm's dashboard.",
    ),
    _mark(
        "rank mismatches",
        _moved("rank_mismatches_total"),
        "rank mismatch",
        "dark-red",
        "Which rank, and what differs: steadynorm events {{run_id}}.",
    ),
    _mark(
        "alerts",
        TROUBLE.replace("}", ', run_id=~"$run_id"}'),
        "{{alertname}}",
        "semi-dark-red",
        "Runbook: docs/operations.md, under the alert's name.",
        enabled=False,
    ),
]
"""Drawn where counters grow: needs no plugin, and a link to steadynorm has the details."""


def _link(kind: str, title: str, tooltip: str, url: str = "", **more: Any) -> Json:
    return {
        "type": kind,
        "title": title,
        "tooltip": tooltip,
        "url": url,
        "tags": [],
        "icon": "",
        "asDropdown": False,
        "includeVars": False,
        "keepTime": kind == "dashboards",
        "targetBlank": False,
        **more,
    }


def dashboard(uid: str, title: str, variables: list[Json], panels: list[Json], **more: Any) -> Json:
    """The whole of a dashboard's JSON. outside: title, tooltip and address of the link to steadynorm itself."""
    return {
        "uid": uid,
        "title": title,
        "description": "Made by deploy/grafana/generate.py: edit that, not this.",
        "tags": ["steadynorm", "training"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair through all charts
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables},
        "annotations": {"list": more.pop("annotations", [])},
        "links": [
            _link("dashboards", "steadynorm's dashboards", "all runs, one run", tags=["steadynorm"]),
            _link("link", *more.pop("outside"), targetBlank=True, icon="external link"),
        ],
        "panels": panels,
        **more,
    }
