"""The runs overview: the most severe runs first, each with sparklines and its last change; a click opens one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from steadynorm_contract.client import Client, ClientError
from steadynorm_contract.fleet import FleetResponse, FleetSort
from steadynorm_contract.runs import Health, RunState
from steadynorm_contract.words import counted
from steadynorm_dashboard import navigation
from steadynorm_dashboard.components import fleet_rows
from steadynorm_dashboard.components.fleet_table import fleet_table, pending_action
from steadynorm_dashboard.components.live_region import live_region
from steadynorm_dashboard.data import queries, session, view
from steadynorm_dashboard.formatting import numbers, status
from steadynorm_dashboard.panels import fleet_filters, messages, page_header, page_title, quiet, run_lifecycle
from steadynorm_dashboard.panels.fleet_filters import Filters

_PAGE = 200
_SORT, _LIMIT = "fleet/sort", "fleet/limit"
_RENAME, _ARCHIVE = (run_lifecycle.RENAME, "Rename", True), (run_lifecycle.ARCHIVE, "Archive", False)
_DELETE = (run_lifecycle.DELETE, "Delete", False)
_BUTTONS = {
    fleet_filters.ARCHIVED: ((run_lifecycle.UNARCHIVE, "Unarchive", False), _RENAME, _DELETE),
    fleet_filters.DELETED: ((run_lifecycle.RESTORE, "Restore", False),),
}
"""For marked runs; of listed runs the others."""


def render() -> None:
    """The page."""
    page_header.bar()
    view.open_page({}, fleet_filters.PARTS)
    _fleet()


@st.fragment(run_every=2)
def _fleet() -> None:
    action = pending_action()
    if action.opened:
        navigation.open_page(run=action.opened)
    if action.compared:
        navigation.open_page(compare=",".join(action.compared))
    if action.asked:
        run_lifecycle.ask(*action.asked)
    sort = action.sort or st.session_state.get(_SORT, FleetSort.SEVERITY.value)
    st.session_state[_SORT] = sort
    filters = fleet_filters.current()
    limit = st.session_state.get(_LIMIT, _PAGE)
    shown = filters
    answer, error = _read(shown, sort, limit)
    # Nothing is live: an empty page would hide the run that ended while its reader looked away.
    resting = answer is not None and filters.shows_usual and answer.total > 0 and not answer.current
    if resting:
        shown = replace(filters, which=fleet_filters.ALL)
        answer, error = _read(shown, sort, limit)
    if answer is None:
        messages.show_error(error)
        return
    quiet.fleet(*_query(shown, sort, limit))
    if not answer.total:
        if error is None:
            messages.no_runs()
        return
    if error is not None:
        messages.stale_data()
    else:
        st.markdown(_summary(answer, time.time()))
    live_region(_announcement(answer))
    page_title.show("Runs", _worst(answer))
    chosen = fleet_filters.widgets(answer)
    if chosen != filters:  # a widget changed in this very run: the answer is for the old filters
        navigation.rerun_fragment()
    view.write()
    run_lifecycle.panel()
    _hidden(answer, filters, resting)
    if not answer.runs:
        _no_match(filters)
        return
    fleet_table(
        fleet_rows.rows(answer.runs, time.time(), filters.group, filters.columns),
        fleet_rows.badges(answer.runs),
        sort,
        columns=fleet_rows.columns(filters.columns),
        headings=fleet_rows.headings(answer.groups, filters.group),
        buttons=_BUTTONS.get(filters.which, (_ARCHIVE, _RENAME, _DELETE)),
        refusal=session.read_only_reason() if session.read_only() else "",
        done=run_lifecycle.done(),
    )
    if answer.matching > len(answer.runs):
        rest = answer.matching - len(answer.runs)
        st.button(f"Show {min(rest, _PAGE)} more of {rest:,}", on_click=_show_more, width="content")


def _read(filters: Filters, sort: str, limit: int) -> tuple[FleetResponse | None, ClientError | None]:
    return queries.fetch(*_query(filters, sort, limit), share="")


def _query(filters: Filters, sort: str, limit: int) -> tuple[str, Callable[[Client], FleetResponse]]:
    return f"fleet/{filters}/{sort}/{limit}", lambda client: client.fleet(**filters.query(), sort=sort, limit=limit)


def _hidden(answer: FleetResponse, filters: Filters, resting: bool) -> None:
    """How many runs the filter hides, with one click to them."""
    if resting:
        st.caption("No run is live and none failed within a day: all runs are shown.")
    elif filters.which == fleet_filters.NOW and answer.hidden:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            what = counted(answer.hidden, "other run")
            st.caption(f"Shown: live runs, and those that failed within a day. Hidden: {what}.", width="content")
            st.button("Show all", on_click=fleet_filters.show, args=(fleet_filters.ALL,), type="tertiary")


def _worst(answer: FleetResponse) -> status.Status | None:
    """The most severe health among the live runs, with their number; None: all are calm."""
    for health in Health:
        if health is not Health.CALM and (count := answer.healths.get(health.value)):
            badge = status.health(health)
            return replace(badge, word=f"{count:,} {badge.word}")
    return None


def _announcement(answer: FleetResponse) -> str:
    """What screen readers say when it changes: how many runs train, and what is wrong with how many. Without times."""
    training = answer.states.get(RunState.RUNNING.value, 0)
    said = [
        f"{count:,} {status.health(health).word}" for health in Health if (count := answer.healths.get(health.value))
    ]
    return ", ".join([f"{training:,} of {answer.total:,} runs training", *said])


def _summary(answer: FleetResponse, now: float) -> str:
    """One sentence that shows whether any run needs attention. A stalled run does not count as training."""
    training, stalled = (answer.states.get(state.value, 0) for state in (RunState.RUNNING, RunState.STALLED))
    problems = [
        _badge(badge, f"{count:,} {badge.word}")
        for health in Health
        if health is not Health.CALM
        and (count := answer.healths.get(health.value))
        and (badge := status.health(health))
    ]
    if answer.failed_last is not None:
        ago = numbers.duration(now - answer.failed_last)
        failed = f"{answer.failed_lately:,} failed{', the last one' if answer.failed_lately > 1 else ''} {ago} ago"
        problems.insert(0, _badge(status.state(RunState.FAILED), failed))
    badges = ": " + " ".join(problems) if problems else ": all calm." if training else "."
    if training or stalled:
        return f"**{training:,}** of {answer.total:,} runs {'is' if training == 1 else 'are'} training{badges}"
    return f"No run is training; {answer.total:,} ended{badges}"


def _badge(badge: status.Status, text: str) -> str:
    return f":{badge.color}-badge[{badge.icon} {text}]"


def _no_match(filters: Filters) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("No run matches these filters.", width="content")
        if not filters.shows_usual:
            st.button("Clear filters", on_click=fleet_filters.clear)


def _show_more() -> None:
    st.session_state[_LIMIT] = st.session_state.get(_LIMIT, _PAGE) + _PAGE
