"""What a page says when it has nothing to show: each time, what to do."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st

from steadynorm_contract.client import ClientError, NotFound, ServerUnreachable, Unauthorized
from steadynorm_contract.discovery import DEFAULT_SERVER
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping

__all__ = ["attach_lines", "explain", "held", "no_runs", "sign_in", "try_again"]


def attach_lines(server: str) -> str:
    """The two lines that bring a training run here."""
    where = "" if server == DEFAULT_SERVER else f', server="{server}"'
    return f'import steadynorm\nagent = steadynorm.attach(model, optimizer, run="my-run"{where})'


def no_runs() -> None:
    """No run was ever attached."""
    st.subheader("No runs yet")
    st.write("Add these two lines to a training script, after the optimizer is made. The run appears here by itself.")
    st.code(attach_lines(session.server()), language="python")
    st.write("Or watch one train at once:")
    st.code("steadynorm demo", language="shell")


def explain(error: ClientError) -> None:
    """Why the server's answer is missing. A refused token leads to the sign-in box."""
    if isinstance(error, Unauthorized):
        session.forget_token()
        st.rerun()
    if isinstance(error, ServerUnreachable):
        st.error(f"No steadynorm server answers at {escaping.markdown(session.server())}.", icon=":material/cloud_off:")
        if error.timed_out:
            st.write(
                "Something is there and takes too long: it hangs, or has too much to do. Its log says more, and so does"
            )
            st.code("steadynorm doctor", language="shell")
        else:
            st.write("Start one, or point the dashboard to another one.")
            st.code("steadynorm up\nsteadynorm dashboard --server http://HOST:8470", language="shell")
        st.write("This page tries again by itself.")
    elif isinstance(error, NotFound):
        st.error("There is no such run on this server. It may have been deleted.", icon=":material/search_off:")
        st.write("Look for it among all runs, above. Should it register again, this page opens it by itself.")
    else:
        st.error(escaping.markdown(str(error), 600), icon=":material/error:")


def held() -> None:
    """The page shows what the server said last, since it says nothing now.

    One line, in the place of one that cannot be right at the moment, so that nothing jumps from under a hand.
    """
    st.markdown(
        ":orange-badge[:material/cloud_off: The server does not answer: this is what it said last.] :small[It was at "
        f"{escaping.markdown(session.server())}; this page goes on by itself when it is back.]"
    )


@st.fragment(run_every=2)
def try_again() -> None:
    """On a page that stands still: draw it anew as soon as the server answers."""
    if session.reachable():
        st.rerun()


def sign_in() -> NoReturn:
    """Ask for a token, and end the page here."""
    _, middle, _ = st.columns([1, 2, 1])
    with middle:
        st.subheader("Sign in")
        if session.refused():
            st.error("The server does not accept this token. It may have been replaced.", icon=":material/key_off:")
        st.write(
            f"The server at {escaping.markdown(session.server())} wants a token.\n\n"
            "The link that `steadynorm up` or `steadynorm server` prints carries one.\n\n"
            "Who runs a shared server makes yours with `steadynorm token new`."
        )
        with st.form("sign_in", border=False):
            token = st.text_input("Token", type="password", autocomplete="current-password")
            if st.form_submit_button("Sign in", type="primary") and token.strip():
                session.sign_in(token)
                st.rerun()
    st.stop()
