"""Filters of the runs overview: words, state, health, tags and groups. They are in the address, see `data.view`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from steadynorm_contract.fleet import MAX_COLUMNS, FleetResponse, FleetSort
from steadynorm_contract.runs import Health, RunState
from steadynorm_dashboard.data import view
from steadynorm_dashboard.data.view import Part
from steadynorm_dashboard.formatting import escaping, status

NOW, LIVE, ENDED, FAILED, ALL, ARCHIVED, DELETED = "now", "live", "ended", "failed", "all", "archived", "deleted"
_WHICH = (NOW, LIVE, ENDED, FAILED, ALL, ARCHIVED, DELETED)
_LIVE = [state for state in RunState if state.is_live]
_MAX_WORDS = 16  # in a search: the server's limit
_NO_GROUPS = ""


def _healths(texts: list[str]) -> list[str] | None:
    return [text for text in texts if text in list(Health)] or None


PARTS = (
    Part("search", ""),
    Part("show", NOW, view.one_of(_WHICH), view.dashed),
    Part("health", [], _healths, list),
    Part("tag", [], list, list),
    Part("group", _NO_GROUPS),
    Part("column", [], lambda texts: texts[:MAX_COLUMNS], list),
    Part("sort", FleetSort.SEVERITY.value, view.one_of(list(FleetSort)), state="fleet/sort"),
)


@dataclass(frozen=True, slots=True)
class Filters:
    """A visitor's filters. The defaults show the runs that are live or failed within a day."""

    search: str = ""
    which: str = NOW
    health: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    group: str = _NO_GROUPS
    columns: tuple[str, ...] = ()  # logged scalars

    def query(self) -> dict[str, Any]:
        """As arguments of `client.fleet`. A filter by health shows only live runs: ended ones need no attention."""
        live = [state.value for state in _LIVE]
        ended = [state.value for state in RunState if state not in _LIVE]
        states = {LIVE: live, ENDED: ended, FAILED: [RunState.FAILED.value]}.get(
            self.which, live if self.health else []
        )
        words = list(dict.fromkeys(self.search.lower().split()))[:_MAX_WORDS]
        return {
            "search": " ".join(words)[:500],
            "state": states,
            "health": self.health,
            "tag": self.tags,
            "current": self.which == NOW,
            "visibility": [self.which] if self.which in (ARCHIVED, DELETED) else [],
            "group": self.group,
            "scalars": self.columns,
        }

    @property
    def shows_usual(self) -> bool:
        """Whether no run is filtered out but those that `NOW` leaves out."""
        return self == Filters(group=self.group, columns=self.columns)


def current() -> Filters:
    """The values of the widgets; before they are drawn, those of the address."""
    return Filters(
        search=view.value("search").strip(),
        which=view.value("show") or NOW,
        health=tuple(view.value("health")),
        tags=tuple(view.value("tag")),
        group=view.value("group") or _NO_GROUPS,
        columns=tuple(view.value("column")),
    )


def clear() -> None:
    """Show the runs that are live or failed within a day, whatever they are called."""
    view.reset({name: view.value(name) for name in ("sort", "group", "column")})


def show(which: str) -> None:
    """Show other runs, under the same filters. For a button."""
    kept = {name: view.value(name) for name in ("search", "tag", "group", "sort", "column")}
    view.reset({**kept, "show": which})


def widgets(answer: FleetResponse) -> Filters:
    """Draw the widgets, each with the number of runs that it would show. Returns their values."""
    before = current()
    live = sum(answer.states.get(state.value, 0) for state in _LIVE)
    failed = answer.states.get(RunState.FAILED.value, 0)
    counts = {NOW: answer.current, LIVE: live, ENDED: answer.total - live, FAILED: failed, ALL: answer.total}
    counts |= {ARCHIVED: answer.archived, DELETED: answer.deleted}
    optional = (ARCHIVED, DELETED)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.text_input(
            "Search",
            view.initial("search"),
            placeholder="Search name, id or tag",
            label_visibility="collapsed",
            key=view.key("search"),
            width=215,
        )
        if options := [*dict.fromkeys([*before.tags, *view.initial("tag"), *answer.tags])]:
            st.multiselect(
                "Tags",
                options,
                view.initial("tag"),
                key=view.key("tag"),
                label_visibility="collapsed",
                placeholder="Tags",
                format_func=lambda tag: escaping.visible(tag, 60),
                width=175,
            )
            _groups(answer.tags, before.group)
        st.segmented_control(
            "Show",
            [which for which in _WHICH if which not in optional or counts[which] or which == before.which],
            default=view.initial("show"),
            required=True,
            key=view.key("show"),
            label_visibility="collapsed",
            format_func=lambda which: f"{which} {counts[which]:,}",
            width="content",
        )
        st.pills(
            "Health",
            [health.value for health in Health],
            selection_mode="multi",
            default=view.initial("health"),
            key=view.key("health"),
            label_visibility="collapsed",
            format_func=lambda health: f"{_badge(health).icon} {_badge(health).word} {answer.healths.get(health, 0)}",
            width="content",
        )
        if options := [*dict.fromkeys([*before.columns, *view.initial("column"), *answer.scalars])]:
            st.multiselect(
                "Columns",
                options,
                view.initial("column"),
                key=view.key("column"),
                label_visibility="collapsed",
                placeholder="Columns",
                max_selections=MAX_COLUMNS,
                format_func=lambda name: escaping.visible(name, 60),
                help="Scalars that the loops log under names of their own.",
                width=320,
            )
    return current()


def _groups(tags: Sequence[str] | dict[str, int], chosen: str) -> None:
    keys = sorted({tag.partition("=")[0] for tag in tags} | ({chosen} - {_NO_GROUPS}))
    options = [_NO_GROUPS, *keys]
    st.selectbox(
        "Group by",
        options,
        options.index(view.initial("group")) if view.initial("group") in options else 0,
        key=view.key("group"),
        label_visibility="collapsed",
        format_func=lambda key: f"by {escaping.visible(key, 40)}" if key else "not grouped",
        width=150,
    )


def _badge(health: str) -> status.Status:
    return status.health(Health(health))
