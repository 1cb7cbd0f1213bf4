"""The fleet as a real table: links, sparklines, sorting by its titles; redrawn in place, so that nothing jumps.

`st.dataframe` draws on a canvas: no links, nothing for a screen reader or the browser's search, no colours with icons,
and every refresh is a new one. This component keeps its rows and changes what differs; it speaks to no other host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import streamlit as st

from steadynorm_dashboard.components.fleet_rows import COLUMNS, Row

__all__ = ["TableAction", "fleet_table", "wish"]

_KEY = "fleet/table"


@dataclass(frozen=True, slots=True)
class TableAction:
    """What a visitor just asked for, one of these."""

    opened: str | None = None
    """A run's id."""
    compared: tuple[str, ...] = ()
    """Ids of the runs to lay over each other."""
    sort: str | None = None
    """An order of `client.fleet`."""


def fleet_table(rows: Sequence[Row], looks: Mapping[str, Row], sort: str) -> None:
    """Draw the table. looks: of the words for health and state. What a visitor does is the next `wish`."""
    mount = st.components.v2.component(
        "steadynorm_fleet",
        html='<div class="steadynorm-fleet"></div>',
        css=_file(".css"),
        js=_file(".js"),
        isolate_styles=False,  # the icons' font is the page's
    )
    mount(
        key=_KEY,
        data={"rows": list(rows), "looks": dict(looks), "columns": COLUMNS, "sort": sort},
        on_opened_change=_note,
        on_compared_change=_note,
        on_sorted_change=_note,
    )


def wish() -> TableAction:
    """What was asked for since the table was drawn last. Known before anything is read or drawn."""
    said = st.session_state.get(_KEY) or {}
    opened, compared, sort = said.get("opened"), said.get("compared"), said.get("sorted")
    return TableAction(
        opened if isinstance(opened, str) else None,
        tuple(str(one) for one in compared) if isinstance(compared, list) else (),
        sort if isinstance(sort, str) and any(sort in column[2:] for column in COLUMNS) else None,
    )


def _note() -> None:
    """A wish is read by `wish`; without a callback the component would not report it."""


@cache
def _file(suffix: str) -> str:
    return Path(__file__).with_suffix(suffix).read_text("utf-8")
