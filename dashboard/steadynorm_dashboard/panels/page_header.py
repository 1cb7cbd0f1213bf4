"""The top of every page, and small elements that pages share."""

from __future__ import annotations

import time

import streamlit as st

from steadynorm_contract.audit import AuditEntry
from steadynorm_dashboard import navigation
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping, numbers, status

_CONTENT = "content"


def link(label: str, run_id: str | None = None, *, icon: str | None = None, help: str | None = None) -> None:  # noqa: A002
    """A link to a run, or to the runs overview. `label` and `help` are Markdown."""
    navigation.link(label, icon=icon, help=help, **({"run": run_id} if run_id else {}))


def bar(*, back: bool = False, run_id: str | None = None, skip: tuple[str, str] = (_CONTENT, "content")) -> None:
    """The page's links, the server's address and the visitor; before them, for the keyboard, a link past them.

    back: link to the runs overview. run_id: the page is about a part of this run. skip: the words of the link past
    them, and the id of the element that it leads to.
    """
    words, target = skip
    st.html(f'<a class="steadynorm-skip" href="#{target}" target="_self">Skip to the {words}</a>')
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        if back or run_id:
            with st.container(horizontal=True, width="content"):
                link("Runs overview", icon=":material/arrow_back:")
                if run_id:
                    link("this run", run_id, icon=":material/show_chart:")
        else:
            st.title("Runs overview" if session.client() else "steadynorm", anchor=False, width="content")
        with st.container(horizontal=True, width="content", vertical_alignment="center"):
            zone = numbers.zone_words(st.context.timezone, time.time())
            st.caption(f"steadynorm at {escaping.markdown(session.server())} · times in {zone}", width="content")
            _visitor()
    if target == "content":
        st.html('<span class="steadynorm-skip-target" id="content" tabindex="-1"></span>')


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


def badge(of: status.Status) -> None:
    """A state as a word in its color."""
    st.badge(of.word, icon=of.icon, color=of.color, help=of.help)


def revision_badge(entry: AuditEntry) -> None:
    """The state of a change, with the step or the reason for a rejection."""
    state = status.revision(entry.state)
    badge(status.Status(escaping.badge(status.revision_words(entry), 300), state.color, state.icon, state.help))


def share_link(**query: str) -> None:
    """The address of the page of `query`, to copy."""
    st.markdown("**Link** to share; it contains no token")
    st.code(navigation.url(**query), language=None, wrap_lines=True)
