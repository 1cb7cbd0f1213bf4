"""All runs: those in trouble first, each with its lines and its last change; a click opens one."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.fleet import FleetResponse, FleetSort
from steadynorm_contract.runs import Health, RunState
from steadynorm_dashboard import navigation
from steadynorm_dashboard.components import fleet_rows
from steadynorm_dashboard.components.fleet_table import fleet_table, wish
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.formatting import numbers, status
from steadynorm_dashboard.panels import fleet_filters, messages, page_header
from steadynorm_dashboard.panels.fleet_filters import Filters

__all__ = ["render"]

_PAGE = 200
_SORT, _LIMIT = "fleet/sort", "fleet/limit"
_LIVE = (RunState.RUNNING, RunState.STALLED)


def render() -> None:
    """The page."""
    page_header.bar()
    if session.client() is None:
        messages.sign_in()
    fleet_filters.begin()
    _fleet()


@st.fragment(run_every=2)
def _fleet() -> None:
    wanted = wish()
    if wanted.opened:
        navigation.go(run=wanted.opened)
    if wanted.compared:
        navigation.go(compare=",".join(wanted.compared))
    sort = wanted.sort or st.session_state.get(_SORT, FleetSort.SEVERITY.value)
    st.session_state[_SORT] = sort
    filters = fleet_filters.kept()
    limit = st.session_state.get(_LIMIT, _PAGE)
    answer, error = queries.read(
        f"fleet/{filters}/{sort}/{limit}",
        lambda client: client.fleet(**filters.query(), sort=sort, limit=limit),
        share="",
    )
    if answer is None:
        if error is not None:
            messages.explain(error)
        return
    if not answer.total:
        if error is None:
            messages.no_runs()
        return
    if error is not None:
        messages.held()
    else:
        st.markdown(_summary(answer, time.time()))
    chosen = fleet_filters.show(answer)
    if chosen != filters:  # a widget said so in this very run: what was read is not what is asked for
        st.rerun(scope="fragment")
    if not answer.runs:
        _no_match(filters)
        return
    fleet_table(fleet_rows.rows(answer.runs, time.time()), fleet_rows.looks(answer.runs), sort)
    if answer.matching > len(answer.runs):
        left = answer.matching - len(answer.runs)
        st.button(f"Show {min(left, _PAGE)} more of {left:,}", on_click=_show_more, width="content")


def _summary(answer: FleetResponse, now: float) -> str:
    """The one sentence that says whether somebody has to do something. What is silent does not train."""
    train, silent = (answer.states.get(state.value, 0) for state in _LIVE)
    trouble = [
        _badge(look, f"{count:,} {look.word}")
        for health in Health
        if health is not Health.CALM and (count := answer.healths.get(health.value)) and (look := status.health(health))
    ]
    if answer.failed_last is not None:
        ago = numbers.duration(now - answer.failed_last)
        look = status.state(RunState.FAILED)
        lately = answer.failed_lately
        trouble.insert(0, _badge(look, f"{lately:,} failed{', the last one' if lately > 1 else ''} {ago} ago"))
    badges = ": " + " ".join(trouble) if trouble else ": all calm." if train else "."
    if train or silent:
        return f"**{train:,}** of {answer.total:,} runs {'trains' if train == 1 else 'train'}{badges}"
    return f"No run trains at the moment; {answer.total:,} ended{badges}"


def _badge(look: status.Status, words: str) -> str:
    return f":{look.color}-badge[{look.icon} {words}]"


def _no_match(filters: Filters) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("No run matches these filters.", width="content")
        st.button("Clear them", on_click=fleet_filters.clear)


def _show_more() -> None:
    st.session_state[_LIMIT] = st.session_state.get(_LIMIT, _PAGE) + _PAGE
