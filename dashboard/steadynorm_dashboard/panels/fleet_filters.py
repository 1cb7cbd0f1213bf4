"""Filters of the runs overview: words, state, health and tags. They persist when a visitor returns to the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from steadynorm_contract.fleet import FleetResponse
from steadynorm_contract.runs import Health, RunState
from steadynorm_dashboard.formatting import escaping, status

_FILTERS = "fleet/filters"
_WHICH = ("all", "live", "ended", "failed")
_LIVE = [state for state in RunState if state.is_live]
_MAX_WORDS = 16  # in a search: the server's limit
_GENERATION = "fleet/generation"  # of the widgets: they are replaced by new ones with other keys
_INITIAL = "fleet/initial"  # the values that they started with


@dataclass(frozen=True, slots=True)
class Filters:
    """A visitor's filters. The defaults show all runs."""

    search: str = ""
    which: str = "all"
    health: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def query(self) -> dict[str, Any]:
        """As arguments of `client.fleet`. A filter by health shows only live runs: ended ones need no attention."""
        live = [state.value for state in _LIVE]
        ended = [state.value for state in RunState if state not in _LIVE]
        states = {
            "all": live if self.health else [],
            "live": live,
            "ended": ended,
            "failed": [RunState.FAILED.value],
        }[self.which]
        words = list(dict.fromkeys(self.search.lower().split()))[:_MAX_WORDS]
        return {"search": " ".join(words)[:500], "state": states, "health": self.health, "tag": self.tags}


def current() -> Filters:
    """The values of the widgets; before they are drawn, the previous values."""
    before: Filters = st.session_state.get(_FILTERS, Filters())
    return Filters(
        search=(st.session_state.get(_key("search"), before.search) or "").strip(),
        which=st.session_state.get(_key("state"), before.which) or "all",
        health=tuple(st.session_state.get(_key("health"), before.health) or ()),
        tags=tuple(st.session_state.get(_key("tags"), before.tags) or ()),
    )


def reset_widgets() -> None:
    """The page is opened: replace the widgets by new ones with the previous values.

    The old ones may be gone from the browser but not yet from the session, or vice versa. Setting their state is no
    alternative: it reaches the browser with one response only, and is lost if the next one overtakes it.
    """
    _replace(current())


def clear() -> None:
    """Show all runs again."""
    _replace(Filters())


def _replace(filters: Filters) -> None:
    st.session_state[_FILTERS] = st.session_state[_INITIAL] = filters
    st.session_state[_GENERATION] = st.session_state.get(_GENERATION, 0) + 1


def widgets(answer: FleetResponse) -> Filters:
    """Draw the widgets, each with the number of runs that it would show. Returns their values."""
    before = current()
    st.session_state[_FILTERS] = before
    initial: Filters = st.session_state[_INITIAL]
    live = sum(answer.states.get(state.value, 0) for state in _LIVE)
    failed = answer.states.get(RunState.FAILED.value, 0)
    counts = {"all": answer.total, "live": live, "ended": answer.total - live, "failed": failed}
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.text_input(
            "Search",
            initial.search,
            placeholder="Search name, id or tag",
            label_visibility="collapsed",
            key=_key("search"),
            width=215,
        )
        if options := [*dict.fromkeys([*before.tags, *answer.tags])]:
            st.multiselect(
                "Tags",
                options,
                initial.tags,
                key=_key("tags"),
                label_visibility="collapsed",
                placeholder="Tags",
                format_func=lambda tag: escaping.visible(tag, 60),
                width=175,
            )
        st.segmented_control(
            "Show",
            _WHICH,
            default=initial.which,
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
            default=initial.health,
            key=_key("health"),
            label_visibility="collapsed",
            format_func=lambda health: f"{_badge(health).icon} {_badge(health).word} {answer.healths.get(health, 0)}",
            width="content",
        )
    return current()


def _key(name: str) -> str:
    return f"fleet/{name}/{st.session_state.get(_GENERATION, 0)}"


def _badge(health: str) -> status.Status:
    return status.health(Health(health))
