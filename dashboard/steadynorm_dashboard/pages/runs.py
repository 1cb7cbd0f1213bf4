"""All runs: how each does, newest first; a click opens it."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.views import RunState, RunSummary
from steadynorm_dashboard import guidance, header, session, snapshot, status, text, units

__all__ = ["render"]

_WIDTHS = (3.2, 1.5, 1.6, 1.2, 1.1, 1.1, 1.2, 1.1, 2.2, 1.3)
_TITLES = ("run", "state", "health", "step", "steps/s", "loss", "raw norm", "target", "settings", "last seen")
_PAGE = 30
_LIVE = (RunState.RUNNING, RunState.STALLED)


def render() -> None:
    """The page."""
    if session.client() is None:
        header.bar()
        guidance.sign_in()
    header.bar()
    _runs()


@st.fragment(run_every=2)
def _runs() -> None:
    answer, error = snapshot.read("runs", lambda client: client.runs())
    if error is not None:
        guidance.explain(error)
    if answer is None:
        return
    if not answer.runs:
        if error is None:
            guidance.no_runs()
        return
    shown = _filtered(answer.runs)
    with st.container(border=True, gap="xsmall"):
        for column, title in zip(st.columns(_WIDTHS, vertical_alignment="center"), _TITLES, strict=True):
            column.caption(title)
        limit = st.session_state.get("runs_limit", _PAGE)
        for run in shown[:limit]:
            _row(run)
        if not shown:
            st.write("No run matches.")
    if len(shown) > limit:
        st.button(f"Show more ({len(shown) - limit} left)", on_click=_show_more)


def _filtered(runs: list[RunSummary]) -> list[RunSummary]:
    search, states = st.columns([1, 2], vertical_alignment="center")
    words = search.text_input("Search", placeholder="name or tag", label_visibility="collapsed", key="runs_search")
    live = sum(run.state in _LIVE for run in runs)
    names = {"all": f"all {len(runs)}", "live": f"live {live}", "ended": f"ended {len(runs) - live}"}
    with states:
        which = st.segmented_control(
            "Show",
            list(names),
            default="all",
            required=True,
            key="runs_which",
            label_visibility="collapsed",
            format_func=names.__getitem__,
        )
    found = [run for run in runs if all(word in _searched(run) for word in words.lower().split())]
    if which == "all":
        return found
    return [run for run in found if (run.state in _LIVE) == (which == "live")]


def _searched(run: RunSummary) -> str:
    return " ".join([run.name, run.run_id, *(f"{key}={value}" for key, value in run.tags.items())]).lower()


def _show_more() -> None:
    st.session_state["runs_limit"] = st.session_state.get("runs_limit", _PAGE) + _PAGE


def _row(run: RunSummary) -> None:
    cells = st.columns(_WIDTHS, vertical_alignment="center")
    with cells[0]:
        header.link(
            f"**{text.markdown(run.name, 60)}**",
            run.run_id,
            help=text.markdown(run.run_id + "".join(f", {key}={value}" for key, value in run.tags.items()), 400),
        )
    with cells[1]:
        header.badge(status.state(run.state))
    with cells[2]:
        header.badge(status.health(run.health))
    speed = run.steps_per_s if run.state is RunState.RUNNING else None
    cells[3].text(units.number(run.step))
    cells[4].text(units.number(speed, 3))
    cells[5].text(units.number(run.loss))
    cells[6].text(units.number(run.raw_norm))
    cells[7].text(units.number(run.target_min, 3))
    cells[8].text(status.settings_words(run))
    cells[9].text(f"{units.duration(time.time() - run.last_seen)} ago")
