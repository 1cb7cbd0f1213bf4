"""What every page has on top, and small parts that pages share."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard import navigation
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.formatting.status import Status

__all__ = ["badge", "bar", "link"]


def link(label: str, run_id: str | None = None, *, icon: str | None = None, help: str | None = None) -> None:  # noqa: A002
    """A link to a run, or to the list of all. `label` and `help` are Markdown."""
    navigation.link(label, icon=icon, help=help, **({"run": run_id} if run_id else {}))


def bar(*, back: bool = False, run_id: str | None = None) -> None:
    """The name of the house, and which server this is. `run_id`: this page is about a part of that run."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if run_id:
            with st.container(horizontal=True, width="content"):
                link("all runs", icon=":material/arrow_back:")
                link("this run", run_id, icon=":material/show_chart:")
        elif back:
            link("all runs", icon=":material/arrow_back:")
        else:
            st.title("Runs" if session.client() else "steadynorm", anchor=False, width="content")
        with st.container(horizontal=True, width="content", vertical_alignment="center"):
            st.caption(f"steadynorm at {escaping.markdown(session.server())}", width="content")
            _visitor()


def _visitor() -> None:
    """Who this visitor is, what they may do, and the way out."""
    known = session.me()
    if known is None:
        return
    name = escaping.markdown(known.name, 40)
    with st.popover(name, icon=":material/account_circle:", width="content"):
        if "operator" in known.roles:
            st.markdown(f"**{name}** may change settings. Changes are in the audit list under this name.")
        else:
            st.markdown(f"**{name}** may look and not change. An operator's token unlocks the controls.")
        st.button(
            "Sign out",
            icon=":material/logout:",
            on_click=session.sign_out,
            help="To use another token; the sign-in box asks for it.",
        )


def badge(status: Status) -> None:
    """A state as a word in its colour."""
    st.badge(status.word, icon=status.icon, color=status.color, help=status.help)
