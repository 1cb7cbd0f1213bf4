"""The parts of a run's page that are in its address."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from steadynorm_contract.scalars import MAX_SCALAR_NAME_LENGTH
from steadynorm_dashboard.charts import heatmap
from steadynorm_dashboard.charts.axis import XAxis
from steadynorm_dashboard.charts.panels import Panel
from steadynorm_dashboard.charts.run import PANELS
from steadynorm_dashboard.charts.scalars import MAX_CHARTS
from steadynorm_dashboard.data import view
from steadynorm_dashboard.data.view import Part
from steadynorm_dashboard.panels import chart_controls, chart_view, scalar_charts

TABS = ("Parameters", "Changes", "Events", "Recovery", "Notes", "Automation", "Configuration", "Export")
_ZOOM = re.compile(r"(?:(.+):)?([0-9]{1,15})-([0-9]{1,15})")
_MAX_SEARCH = 200
_NONE = "none"  # no axis is logarithmic, though some are by default


def parts(run_id: str) -> tuple[Part, ...]:
    """Those of a run's page. Their state is that of the widgets of `chart_controls`, `heatmap` and `run_tabs`."""
    return (
        *chart_parts(run_id, PANELS),
        zoom_part(run_id),
        Part("pinned", [], _known(PANELS), list, f"{run_id}/{chart_view.PINNED}"),
        Part("scalars", None, names, list, f"{run_id}/{scalar_charts.CHOSEN}"),
        Part("top", None, names, list, f"{run_id}/{scalar_charts.PINNED}"),
        order_part(f"{run_id}/parameters"),
        Part("map", "spike ratio", view.one_of(list(heatmap.SIGNALS)), view.dashed, f"{run_id}/heat/signal"),
        Part("tab", TABS[0], view.one_of(TABS), view.dashed, f"{run_id}/tab"),
        Part("find", "", lambda texts: texts[0][:_MAX_SEARCH], state=f"{run_id}/search"),
    )


def chart_parts(place: str, panels: Sequence[Panel]) -> tuple[Part, ...]:
    """Those of the controls above charts."""
    usual = [panel.signal.name for panel in panels if panel.signal.scale == "log"]
    stops = {f"{stop:g}": stop for stop in chart_view.SMOOTHING_STOPS}
    return (
        Part("range", "all steps", view.one_of(list(chart_controls.WINDOWS)), view.dashed, f"{place}/window"),
        Part("axis", XAxis.STEP, view.one_of(list(XAxis)), view.dashed, f"{place}/x axis"),
        Part("smoothing", 0.0, lambda texts: stops.get(texts[0]), _number, f"{place}/{chart_view.SMOOTHING}"),
        Part("logx", False, _switch, _switched, f"{place}/{chart_view.LOG_X}"),
        Part("logy", usual, _logarithmic(panels), lambda names: names or [_NONE], f"{place}/{chart_view.LOG_Y}"),
        Part("bands", False, _switch, _switched, f"{place}/{chart_view.BANDS}"),
    )


def zoom_part(place: str, runs: Sequence[str] = ()) -> Part:
    """The zoom of the charts of `place`. runs: those that they show, where there are several."""

    def decode(texts: list[str]) -> dict[str, tuple[int, int]] | None:
        found = {match[1] or "": (int(match[2]), int(match[3])) for text in texts if (match := _ZOOM.fullmatch(text))}
        found = {of: ends for of, ends in found.items() if ends[0] <= ends[1]}
        return {of: found.get(of, found[""]) for of in ("", *runs)} if "" in found else None

    def encode(zoom: dict[str, tuple[int, int]]) -> Sequence[str]:
        whole = zoom.get("")
        return [f"{of}{':' if of else ''}{ends[0]}-{ends[1]}" for of, ends in zoom.items() if not of or ends != whole]

    return Part("zoom", None, decode, encode, f"{place}/zoom")


def order_part(table: str) -> Part:
    """The sort of the `data_table` with the key `table`: a column's title, behind a dash where it is descending."""
    return Part(
        "order",
        None,
        lambda texts: (texts[0].removeprefix("-")[:_MAX_SEARCH], texts[0].startswith("-")),
        lambda sort: [("-" if sort[1] else "") + sort[0]],
        f"{table}/sort",
    )


def names(texts: list[str]) -> list[str] | None:
    """Of scalars; which there are is known once the run is read."""
    return [text[:MAX_SCALAR_NAME_LENGTH] for text in texts[:MAX_CHARTS]] or None


def _known(panels: Sequence[Panel]) -> Callable[[list[str]], list[str] | None]:
    return lambda texts: [one.signal.name for one in panels if one.signal.name in texts] or None


def _number(value: float) -> Sequence[str]:
    return [f"{value:g}"]


def _switch(texts: list[str]) -> bool | None:
    return True if texts == ["on"] else None


def _switched(on: bool) -> Sequence[str]:
    return ["on"] if on else []


def _logarithmic(panels: Sequence[Panel]) -> Callable[[list[str]], list[str] | None]:
    known = _known(panels)
    return lambda texts: [] if texts == [_NONE] else known(texts)
