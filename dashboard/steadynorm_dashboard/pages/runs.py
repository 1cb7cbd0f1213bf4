"""The runs overview: the most severe runs first, each with sparklines and its last change; a click opens one."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.fleet import FleetResponse, FleetSort
from steadynorm_contract.runs import Health, RunState
from steadynorm_dashboard import navigation
from steadynorm_dashboard.components import fleet_rows
from steadynorm_dashboard.components.fleet_table import fleet_table, pending_action
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import numbers, status
from steadynorm_dashboard.panels import fleet_filters, messages, page_header
from steadynorm_dashboard.panels.fleet_filters import Filters

_PAGE = 200
_SORT, _LIMIT = "fleet/sort", "fleet/limit"


def render() -> None:
    """The page."""
    page_header.bar()
    fleet_filters.reset_widgets()
    _fleet()


@st.fragment(run_every=2)
def _fleet() -> None:
    action = pending_action()
    if action.opened:
        navigation.open_page(run=action.opened)
    if action.compared:
        navigation.open_page(compare=",".join(action.compared))
    sort = action.sort or st.session_state.get(_SORT, FleetSort.SEVERITY.value)
    st.session_state[_SORT] = sort
    filters = fleet_filters.current()
    limit = st.session_state.get(_LIMIT, _PAGE)
    answer, error = queries.fetch(
        f"fleet/{filters}/{sort}/{limit}",
        lambda client: client.fleet(**filters.query(), sort=sort, limit=limit),
        share="",
    )
    if answer is None:
        if error is not None:
            messages.show_error(error)
        return
    if not answer.total:
        if error is None:
            messages.no_runs()
        return
    if error is not None:
        messages.stale_data()
    else:
        st.markdown(_summary(answer, time.time()))
    chosen = fleet_filters.widgets(answer)
    if chosen != filters:  # a widget changed in this very run: the answer is for the old filters
        st.rerun(scope="fragment")
    if not answer.runs:
        _no_match(filters)
        return
    fleet_table(fleet_rows.rows(answer.runs, time.time()), fleet_rows.badges(answer.runs), sort)
    if answer.matching > len(answer.runs):
        rest = answer.matching - len(answer.runs)
        st.button(f"Show {min(rest, _PAGE)} more of {rest:,}", on_click=_show_more, width="content")


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
        st.button("Clear filters", on_click=fleet_filters.clear)


def _show_more() -> None:
    st.session_state[_LIMIT] = st.session_state.get(_LIMIT, _PAGE) + _PAGE
