"""Grafana's JSON for panels and variables: the shapes that `generate.py` fills."""

from __future__ import annotations

from typing import Any

__all__ = ["DATASOURCE", "LEGEND", "RUN", "Json", "chart", "layout", "limit", "number", "panel", "query", "variable"]

Json = dict[str, Any]

RUN = '{run_id=~"$run_id"}'
LEGEND = "{{run}} ({{run_id}})"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUN_LINK = {
    "title": "open ${__field.labels.run} in steadynorm",
    "url": "${dashboard_url}/?run=${__field.labels.run_id}",
}


def query(expr: str, legend: str = LEGEND, *, instant: bool = False) -> Json:
    """One Prometheus query of a panel."""
    shape = {"instant": True, "range": False, "format": "table"} if instant else {"range": True}
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend, **shape}


def panel(title: str, kind: str, targets: list[Json], *, unit: str, about: str, **more: Any) -> Json:
    """A panel without a place: `layout` gives it one. `unit` is one of Grafana's unit ids."""
    defaults: Json = {"unit": unit, "links": [RUN_LINK], **more.pop("defaults", {})}
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


def number(title: str, expr: str, *, about: str, unit: str = "none", red_from: float | None = None) -> Json:
    """One number of now."""
    steps: list[Json] = [{"color": "green", "value": None}]
    if red_from is not None:
        steps.append({"color": "red", "value": red_from})
    return panel(
        title,
        "stat",
        [query(expr, legend=title)],
        unit=unit,
        about=about,
        defaults={"thresholds": {"mode": "absolute", "steps": steps}, "links": []},
        options={"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "none"},
    )


def limit(value: float, below: str, above: str) -> Json:
    """A dashed line at `value`, and the colours under and over it."""
    return {
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": below, "value": None}, {"color": above, "value": value}],
        }
    }


def variable(name: str, label: str, values: str) -> Json:
    """A list to choose from, filled by a Prometheus query."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": values, "refId": name},
        "definition": values,
        "refresh": 2,  # whenever the time range changes: runs come and go
        "includeAll": True,
        "multi": True,
        "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def layout(numbers: list[Json], table: Json, sections: dict[str, list[Json]]) -> list[Json]:
    """All panels with their places in Grafana's grid of 24 columns: numbers, table, then charts in pairs by section."""
    placed: list[Json] = []
    top = 0

    def place(row: list[Json], width: int, height: int) -> None:
        nonlocal top
        for index, one in enumerate(row):
            grid = {"x": index * width, "y": top, "w": width, "h": height}
            placed.append({"id": len(placed) + 1, "gridPos": grid, **one})
        top += height

    place(numbers, 24 // len(numbers), 4)
    place([table], 24, 7)
    for title, charts in sections.items():
        place([{"type": "row", "title": title, "collapsed": False, "panels": []}], 24, 1)
        for start in range(0, len(charts), 2):
            place(charts[start : start + 2], 12, 8)
    return placed
