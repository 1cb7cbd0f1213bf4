"""The title and the icon of the browser's tab: which page it is, and how it stands. Sent only when they change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import streamlit as st

from steadynorm_contract.runs import RunDetail
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.formatting.status import Color, Status

_SHOWN = "page_title/shown"  # (page, title, color)
_ICON = Path(__file__).parent.with_name("icon.svg").read_text("ascii")  # a Material icon or emoji has another host
_COLORS: dict[Color, str] = {
    "blue": "#0068a3",
    "orange": "#d55e00",
    "red": "#b3261e",
    "violet": "#8a4b7a",
    "gray": "#6b7681",
}
_SIGNS = {"non-finite": "✕ ", "failed": "✕ ", "spiking": "⚡ ", "throttled": "▼ ", "disconnected": "⊘ "}
_MAX_NAME = 60


def start(page: Mapping[str, str]) -> str:
    """Called first in each run of the script: the title of the page as it was known last, which it returns."""
    known: tuple[dict[str, str], str, Color] = st.session_state.get(_SHOWN, ({}, "steadynorm", "blue"))
    if known[0] != page:
        known = st.session_state[_SHOWN] = (dict(page), "steadynorm", "blue")
    st.set_page_config(page_title=known[1], page_icon=_icon(known[2]), layout="wide")
    return known[1]


def show(name: str, badge: Status | None = None) -> None:
    """Name the tab after the page, with a state in words and in the icon's color."""
    name = escaping.visible(name, _MAX_NAME)
    sign = next((sign for word, sign in _SIGNS.items() if badge and word in badge.word), "")
    title = f"{sign}{name} · {badge.word}" if badge else name
    title, color = f"{title} – steadynorm", badge.color if badge else "blue"
    page, *shown = st.session_state.get(_SHOWN, ({}, "", ""))
    if shown != [title, color]:
        st.session_state[_SHOWN] = (page, title, color)
        st.set_page_config(page_title=title, page_icon=_icon(color))


def show_part(page: Mapping[str, str]) -> None:
    """Name the tab of a page that does not do so itself: of a part of a run, a comparison, the runbook."""
    stored = session.answers().get(f"{page.get('run')}/run") if session.identity() else None
    run = cast("tuple[object, RunDetail]", stored)[1].name if stored is not None else page.get("run", "")
    match page:
        case {"runbook": alert}:
            show(f"{alert} · runbook")
        case {"parameter": name}:
            show(f"{name} · {run}")
        case {"incident": _}:
            show(f"incident · {run}")
        case {"change": revision}:
            show(f"r{revision} · {run}")
        case {"compare": _}:
            show("comparison")


def _icon(color: Color) -> str:
    return _ICON.replace(_COLORS["blue"], _COLORS[color])
