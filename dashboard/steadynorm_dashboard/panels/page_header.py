"""The top of every page, and small elements that pages share."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard import navigation
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.formatting.status import Status
from steadynorm_dashboard.panels import messages


def link(label: str, run_id: str | None = None, *, icon: str | None = None, help: str | None = None) -> None:  # noqa: A002
    """A link to a run, or to the runs overview. `label` and `help` are Markdown."""
    navigation.link(label, icon=icon, help=help, **({"run": run_id} if run_id else {}))


def bar(*, back: bool = False, run_id: str | None = None, sign_in: bool = True) -> None:
    """The page's links, the server's address and the visitor. Without a token the page ends with the sign-in form.

    back: link to the runs overview. run_id: the page is about a part of this run. sign_in: whether it needs a token.
    """
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if back or run_id:
            with st.container(horizontal=True, width="content"):
                link("Runs overview", icon=":material/arrow_back:")
                if run_id:
                    link("this run", run_id, icon=":material/show_chart:")
        else:
            st.title("Runs overview" if session.client() else "steadynorm", anchor=False, width="content")
        with st.container(horizontal=True, width="content", vertical_alignment="center"):
            st.caption(f"steadynorm at {escaping.markdown(session.server())}", width="content")
            _visitor()
    if sign_in and session.client() is None:
        messages.sign_in()


def _visitor() -> None:
    """The visitor's name, their permissions, and a button to sign out."""
    known = session.me()
    if known is None:
        return
    name = escaping.markdown(known.name, 40)
    with st.popover(name, icon=":material/account_circle:", width="content"):
        st.markdown("**Permissions**")
        if "operator" in known.roles:
            st.markdown(f"**{name}** can change settings. Changes are recorded in the audit log under this name.")
        else:
            st.markdown(f"**{name}** has read-only access. Changing settings requires an operator token.")
        st.button(
            "Sign out",
            icon=":material/logout:",
            on_click=session.sign_out,
            help="To use another token, sign out and enter it in the sign-in form.",
        )


def badge(status: Status) -> None:
    """A state as a word in its color."""
    st.badge(status.word, icon=status.icon, color=status.color, help=status.help)


def share_link(**query: str) -> None:
    """The address of the page of `query`, to copy."""
    st.markdown("**Link** to share; it contains no token")
    st.code(navigation.url(**query), language=None)
