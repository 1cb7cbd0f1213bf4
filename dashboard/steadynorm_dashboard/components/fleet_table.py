"""The runs overview as an HTML table with links, sparklines and sortable columns, updated in place.

`st.dataframe` draws on a canvas: without links, colored badges, or text for screen readers and the browser's search,
and every refresh replaces it. This component keeps its rows and updates what differs; it contacts no other host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import streamlit as st

from steadynorm_dashboard.components.fleet_rows import COLUMNS, Row

_KEY = "fleet/table"


@dataclass(frozen=True, slots=True)
class TableAction:
    """A visitor's last action; one of the fields is set."""

    opened: str | None = None
    """The id of the run to open."""
    compared: tuple[str, ...] = ()
    """The ids of the runs to compare."""
    sort: str | None = None
    """A sort order of `client.fleet`."""


def fleet_table(rows: Sequence[Row], badges: Mapping[str, Row], sort: str) -> None:
    """Draw the table. badges: of the words for health and state. A visitor's action is the next `pending_action`."""
    component = st.components.v2.component(
        "steadynorm_fleet",
        html='<div class="steadynorm-fleet"></div>',
        css=_file(".css"),
        js=_file(".js"),
        isolate_styles=False,  # the page provides the icon font
    )
    component(
        key=_KEY,
        data={"rows": list(rows), "badges": dict(badges), "columns": COLUMNS, "sort": sort},
        on_opened_change=_ignore,
        on_compared_change=_ignore,
        on_sorted_change=_ignore,
    )


def pending_action() -> TableAction:
    """The action since the table was last drawn. It is known before anything is read or drawn."""
    state = st.session_state.get(_KEY) or {}
    opened, compared, sort = state.get("opened"), state.get("compared"), state.get("sorted")
    return TableAction(
        opened if isinstance(opened, str) else None,
        tuple(str(one) for one in compared) if isinstance(compared, list) else (),
        sort if isinstance(sort, str) and any(sort in column[2:] for column in COLUMNS) else None,
    )


def _ignore() -> None:
    """Actions are read by `pending_action`, but the component reports them only if there is a callback."""


@cache
def _file(suffix: str) -> str:
    return Path(__file__).with_suffix(suffix).read_text("utf-8")
