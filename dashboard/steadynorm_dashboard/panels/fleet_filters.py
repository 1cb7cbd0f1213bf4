"""Which runs of the fleet are shown: by words, state, health and tags. Kept when a visitor comes back to the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from steadynorm_contract.fleet import FleetResponse
from steadynorm_contract.runs import Health, RunState
from steadynorm_dashboard.formatting import escaping, status

__all__ = ["Filters", "begin", "clear", "kept", "show"]

_KEPT = "fleet/filters"
_WHICH = ("all", "live", "ended", "failed")
_LIVE = (RunState.RUNNING, RunState.STALLED)
_MOST_WORDS = 16  # of a search: the server takes no more
_ROUND = "fleet/round"  # counts how often the widgets were made anew
_BEGAN = "fleet/began"  # what they began with


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
        states = {
            "all": live if self.health else [],
            "live": live,
            "ended": ended,
            "failed": [RunState.FAILED.value],
        }[self.which]
        words = list(dict.fromkeys(self.search.lower().split()))[:_MOST_WORDS]
        return {"search": " ".join(words)[:500], "state": states, "health": self.health, "tag": self.tags}


def kept() -> Filters:
    """What the widgets say now; where they are not drawn yet, what they said last."""
    before: Filters = st.session_state.get(_KEPT, Filters())
    return Filters(
        search=(st.session_state.get(_key("search"), before.search) or "").strip(),
        which=st.session_state.get(_key("state"), before.which) or "all",
        health=tuple(st.session_state.get(_key("health"), before.health) or ()),
        tags=tuple(st.session_state.get(_key("tags"), before.tags) or ()),
    )


def begin() -> None:
    """The page is opened, or come back to: the widgets are new ones, which show what was chosen before.

    Those of before may be gone from the browser and not yet from the session, or the other way round; and a value put
    into a widget's state reaches the browser with one answer only, and is lost where the next one overtakes it.
    """
    _anew(kept())


def clear() -> None:
    """Show all runs again."""
    _anew(Filters())


def _anew(filters: Filters) -> None:
    st.session_state[_KEPT] = st.session_state[_BEGAN] = filters
    st.session_state[_ROUND] = st.session_state.get(_ROUND, 0) + 1


def show(answer: FleetResponse) -> Filters:
    """Draw the widgets, each with how many runs it would show. Returns what they say."""
    before = kept()
    st.session_state[_KEPT] = before
    began: Filters = st.session_state[_BEGAN]
    live = sum(answer.states.get(state.value, 0) for state in _LIVE)
    failed = answer.states.get(RunState.FAILED.value, 0)
    counts = {"all": answer.total, "live": live, "ended": answer.total - live, "failed": failed}
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.text_input(
            "Search",
            began.search,
            placeholder="Search name, id or tag",
            label_visibility="collapsed",
            key=_key("search"),
            width=215,
        )
        if options := [*dict.fromkeys([*before.tags, *answer.tags])]:
            st.multiselect(
                "Tags",
                options,
                began.tags,
                key=_key("tags"),
                label_visibility="collapsed",
                placeholder="Tags",
                format_func=lambda tag: escaping.visible(tag, 60),
                width=175,
            )
        st.segmented_control(
            "Show",
            _WHICH,
            default=began.which,
            required=True,
            key=_key("state"),
            label_visibility="collapsed",
            format_func=lambda which: f"{which} {counts[which]:,}",
            width="content",
        )
        st.pills(
            "Health",
            [health.value for health in Health],
            selection_mode="multi",
            default=began.health,
            key=_key("health"),
            label_visibility="collapsed",
            format_func=lambda health: f"{_look(health).icon} {_look(health).word} {answer.healths.get(health, 0)}",
            width="content",
        )
    return kept()


def _key(name: str) -> str:
    return f"fleet/{name}/{st.session_state.get(_ROUND, 0)}"


def _look(health: str) -> status.Status:
    return status.health(Health(health))
