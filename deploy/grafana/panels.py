"""Grafana's JSON for panels.

Plain dictionaries: the schema's own SDK is published for Grafana 10.1 at the newest, and Compose runs 11.
"""

from __future__ import annotations

from typing import Any

from steadynorm_contract.signals import signal

__all__ = [
    "BY_RUN",
    "DATASOURCE",
    "LEGEND",
    "MODE",
    "TROUBLE",
    "Json",
    "chart",
    "limit",
    "newest",
    "number",
    "panel",
    "query",
    "signal_chart",
]

Json = dict[str, Any]

BY_RUN = "max by (run, run_id)"
"""Several servers export the same run: one line for it, whichever was scraped."""
LEGEND = "{{run}} ({{run_id}})"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TROUBLE = 'ALERTS{alertname=~"Steadynorm.+", alertstate="firing"}'
MODE: Json = {
    "mappings": [
        {
            "type": "value",
            "options": {
                "0": {"text": "off", "color": "text", "index": 0},
                "1": {"text": "observe", "color": "blue", "index": 1},
                "2": {"text": "stabilize", "color": "green", "index": 2},
                "3": {"text": "clip", "color": "purple", "index": 3},
            },
        }
    ]
}
"""Value mappings of `newest("mode", …)`."""


def newest(name: str, selector: str) -> str:
    """An expression: steadynorm_NAME, one value for each run. "mode" is 0 off, 1 observe, 2 stabilize, 3 clip."""
    if name == "mode":
        clip, stabilize, observe = (
            f'{BY_RUN} (steadynorm_mode{{steadynorm_mode="{mode}", {selector}}})'
            for mode in ("clip", "stabilize", "observe")
        )
        return f"3 * {clip} + 2 * {stabilize} + {observe}"
    return f"{BY_RUN} (steadynorm_{name}{{{selector}}})"


def query(expr: str, legend: str = LEGEND, *, table: bool = False) -> Json:
    """One Prometheus query of a panel. table: the current values as rows instead of lines over time."""
    shape = {"instant": True, "range": False, "format": "table"} if table else {"range": True}
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend, **shape}


def panel(title: str, kind: str, targets: list[Json], *, unit: str, about: str, **more: Any) -> Json:
    """A panel without a position, which `grid` sets. `unit` is one of Grafana's unit ids."""
    defaults: Json = {"unit": unit, **more.pop("defaults", {})}
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "targets": [{**target, "refId": chr(ord("A") + index)} for index, target in enumerate(targets)],
        "fieldConfig": {"defaults": defaults, "overrides": more.pop("overrides", [])},
        "options": more.pop("options", {}),
        **more,
    }


def chart(title: str, targets: list[Json], *, about: str, unit: str = "none", log: bool = False, **more: Any) -> Json:
    """Lines over time."""
    custom: Json = {"lineWidth": 1, "showPoints": "never", "spanNulls": False, **more.pop("custom", {})}
    if log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    options = {"tooltip": {"mode": "multi", "sort": "desc"}, "legend": {"displayMode": "list", "placement": "bottom"}}
    defaults = {"custom": custom, **more.pop("defaults", {})}
    return panel(title, "timeseries", targets, unit=unit, about=about, defaults=defaults, options=options, **more)


def signal_chart(name: str, targets: list[Json], *, unit: str = "none", **more: Any) -> Json:
    """A chart with the title, the description and the scale of a signal of the catalogue."""
    shown = signal(name)
    title, log = shown.title.capitalize(), shown.scale == "log"
    return chart(title, targets, about=shown.description, unit=unit, log=log, **more)


def number(title: str, expr: str, *, about: str, unit: str = "none", **defaults: Any) -> Json:
    """One current number. `defaults`: thresholds, mappings, decimals."""
    return panel(
        title,
        "stat",
        [query(expr, legend=title)],
        unit=unit,
        about=about,
        defaults={**limit(), **defaults},
        options={"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "none", "colorMode": "value"},
    )


def limit(value: float | None = None, *, below: str = "green", above: str = "red") -> Json:
    """The colours under and over `value`, which charts can draw as a dashed line; None: no limit, the plain colour."""
    steps: list[Json] = [{"color": "text" if value is None else below, "value": None}]
    if value is not None:
        steps.append({"color": above, "value": value})
    return {"thresholds": {"mode": "absolute", "steps": steps}}
