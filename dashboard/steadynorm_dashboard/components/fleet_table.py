"""The runs overview as an HTML table with links, sparklines and sortable columns, updated in place.

`st.dataframe` draws on a canvas: without links, colored badges, or text for screen readers and the browser's search,
and every refresh replaces it. This component keeps its rows and updates what differs; it contacts no other host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import streamlit as st

from steadynorm_dashboard.components import files
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
    asked: tuple[str, dict[str, str]] | None = None
    """What to do with which runs: one of `buttons`, and their names by id."""


def fleet_table(
    rows: Sequence[Row],
    badges: Mapping[str, Row],
    sort: str,
    *,
    columns: Sequence[tuple[str, str, str, str]] = COLUMNS,
    headings: Mapping[str, str] | None = None,
    buttons: Sequence[tuple[str, str, bool]] = (),
    refusal: str = "",
    done: tuple[str, Sequence[str]] = ("", ()),
) -> None:
    """Draw the table. A visitor's action is the next `pending_action`.

    badges: of the words for health and state. columns: as COLUMNS. headings: of the groups, by the value of the rows'
    `group`.
    buttons: for marked runs: name, label, and whether for one run only. refusal: why they are locked.
    done: the id of the last action's outcome, and the runs that it was done to: they are unmarked, once.
    """
    component = st.components.v2.component(
        "steadynorm_fleet",
        html='<div class="steadynorm-fleet"></div>',
        css=files.text("fleet_table.css"),
        js=files.text("dom.js", "fleet_table.js"),
        isolate_styles=False,  # the page provides the icon font
    )
    component(
        key=_KEY,
        data={
            "rows": list(rows),
            "badges": dict(badges),
            "columns": list(columns),
            "sort": sort,
            "headings": dict(headings or {}),
            "buttons": [list(button) for button in buttons],
            "refusal": refusal,
            "done": {"id": done[0], "runs": list(done[1])},
        },
        on_opened_change=_ignore,
        on_compared_change=_ignore,
        on_sorted_change=_ignore,
        on_asked_change=_ignore,
    )


def pending_action() -> TableAction:
    """The action since the table was last drawn. It is known before anything is read or drawn."""
    state = st.session_state.get(_KEY) or {}
    opened, compared, sort = state.get("opened"), state.get("compared"), state.get("sorted")
    return TableAction(
        opened if isinstance(opened, str) else None,
        tuple(str(one) for one in compared) if isinstance(compared, list) else (),
        sort if isinstance(sort, str) and any(sort in column[2:] for column in COLUMNS) else None,
        _asked(state.get("asked")),
    )


def _asked(reported: object) -> tuple[str, dict[str, str]] | None:
    match reported:
        case {"action": str(action), "runs": Mapping() as runs}:
            return action, {str(run_id): str(name) for run_id, name in runs.items()}
        case _:
            return None


def _ignore() -> None:
    """Actions are read by `pending_action`, but the component reports them only if there is a callback."""
