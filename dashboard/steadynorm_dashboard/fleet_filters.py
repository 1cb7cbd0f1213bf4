"""Which runs of the fleet are shown: by words, state, health and tags. Kept when a visitor comes back to the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from steadynorm_contract.fleet import FleetAnswer
from steadynorm_contract.views import Health, RunState
from steadynorm_dashboard import status, text

__all__ = ["Filters", "clear", "kept", "show"]

_KEPT = "fleet/filters"
_WHICH = ("all", "live", "ended")
_LIVE = (RunState.RUNNING, RunState.STALLED)
_SEARCH, _STATE, _HEALTH, _TAGS = "fleet/search", "fleet/state", "fleet/health", "fleet/tags"


@dataclass(frozen=True, slots=True)
class Filters:
    """What a visitor chose. Nothing chosen: all runs."""

    search: str = ""
    which: str = "all"
    health: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def query(self) -> dict[str, Any]:
        """As arguments of `client.fleet`. Health is of what trains: an ended run is no trouble any more."""
        live = [state.value for state in _LIVE]
        ended = [state.value for state in RunState if state not in _LIVE]
        states = {"all": live if self.health else [], "live": live, "ended": ended}[self.which]
        return {"search": self.search[:500], "state": states, "health": self.health, "tag": self.tags}


def kept() -> Filters:
    """What the widgets say now; where they are not drawn yet, what they said last."""
    before: Filters = st.session_state.get(_KEPT, Filters())
    return Filters(
        search=(st.session_state.get(_SEARCH, before.search) or "").strip(),
        which=st.session_state.get(_STATE, before.which) or "all",
        health=tuple(st.session_state.get(_HEALTH, before.health) or ()),
        tags=tuple(st.session_state.get(_TAGS, before.tags) or ()),
    )


def clear() -> None:
    """Show all runs again."""
    st.session_state[_KEPT] = Filters()
    st.session_state[_SEARCH] = ""
    st.session_state[_STATE] = "all"
    st.session_state[_HEALTH] = []
    st.session_state[_TAGS] = []


def show(answer: FleetAnswer) -> Filters:
    """Draw the widgets, each with how many runs it would show. Returns what they say."""
    before = kept()
    st.session_state[_KEPT] = before
    # The widgets' own state goes when another page is shown; ours stays.
    for key, value in (
        (_SEARCH, before.search),
        (_STATE, before.which),
        (_HEALTH, list(before.health)),
        (_TAGS, list(before.tags)),
    ):
        st.session_state.setdefault(key, value)
    live = sum(answer.states.get(state.value, 0) for state in _LIVE)
    counts = {"all": answer.total, "live": live, "ended": answer.total - live}
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.text_input(
            "Search", placeholder="Search name, id or tag", label_visibility="collapsed", key=_SEARCH, width=215
        )
        if options := [*dict.fromkeys([*before.tags, *answer.tags])]:
            st.multiselect(
                "Tags",
                options,
                key=_TAGS,
                label_visibility="collapsed",
                placeholder="Tags",
                format_func=lambda tag: text.visible(tag, 60),
                width=175,
            )
        st.segmented_control(
            "Show",
            _WHICH,
            required=True,
            key=_STATE,
            label_visibility="collapsed",
            format_func=lambda which: f"{which} {counts[which]:,}",
            width="content",
        )
        st.pills(
            "Health",
            [health.value for health in Health],
            selection_mode="multi",
            key=_HEALTH,
            label_visibility="collapsed",
            format_func=lambda health: f"{_look(health).icon} {_look(health).word} {answer.healths.get(health, 0)}",
            width="content",
        )
    return kept()


def _look(health: str) -> status.Status:
    return status.health(Health(health))
