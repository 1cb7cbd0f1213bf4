"""Messages of a page that has nothing to show, or of a change that was refused: each says what to do."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st

from steadynorm_contract.client import ClientError, Conflict, Forbidden, NotFound, ServerUnreachable, Unauthorized
from steadynorm_contract.discovery import DEFAULT_SERVER
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping


def attach_lines(server: str) -> str:
    """The two lines that connect a training script to `server`."""
    where = "" if server == DEFAULT_SERVER else f', server="{server}"'
    return f'import steadynorm\nagent = steadynorm.attach(model, optimizer, run="my-run"{where})'


def no_runs() -> None:
    """No run has registered yet."""
    st.subheader("No runs yet")
    st.write("Add these two lines to a training script, after the optimizer is created. The run then appears here.")
    st.code(attach_lines(session.server()), language="python")
    st.write("Or start an example training:")
    st.code("steadynorm demo", language="shell")


def show_error(error: ClientError) -> None:
    """Why a read failed. A rejected token leads to the sign-in form."""
    if isinstance(error, Unauthorized):
        session.forget_token()
        st.rerun()
    if isinstance(error, ServerUnreachable):
        st.error(f"No steadynorm server answers at {escaping.markdown(session.server())}.", icon=":material/cloud_off:")
        if error.timed_out:
            st.write("It accepts connections but does not answer in time: it hangs or is overloaded. See its log, and:")
            st.code("steadynorm doctor", language="shell")
        else:
            st.write("Start one, or point the dashboard to another one:")
            st.code("steadynorm up\nsteadynorm dashboard --server http://HOST:8470", language="shell")
        st.write("This page retries automatically.")
    elif isinstance(error, NotFound):
        st.error("There is no such run on this server. It may have been deleted.", icon=":material/search_off:")
        st.write("Find other runs in the runs overview. If this run registers again, the page opens automatically.")
    else:
        st.error(escaping.markdown(str(error), 600), icon=":material/error:")


def write_error(error: Exception, what: str = "settings") -> str | None:
    """The message for a change of `what` that failed. None: the page itself will show why, by its locked controls."""
    if isinstance(error, Conflict):
        return f"The {what} were changed concurrently, so nothing was changed. Check them and try again."
    if isinstance(error, Forbidden):
        session.read_only(learned=True)
        return None
    if isinstance(error, Unauthorized):
        session.forget_token()
        return None
    return f"Nothing was changed. {escaping.markdown(str(error), 600)}"


def stale_data() -> None:
    """The page shows the last known data because the server is away.

    One line, in place of a line whose content would be outdated, so that the layout does not move.
    """
    st.markdown(
        ":orange-badge[:material/cloud_off: The server does not answer: this is the last known data.] :small[Retrying "
        f"{escaping.markdown(session.server())} automatically.]"
    )


@st.fragment(run_every=2)
def rerun_when_reachable() -> None:
    """On a page without live parts: draw it again as soon as the server answers."""
    if session.is_reachable():
        st.rerun()


def sign_in() -> NoReturn:
    """Ask for a token, and end the page here."""
    _, middle, _ = st.columns([1, 2, 1])
    with middle:
        st.subheader("Sign in")
        if session.token_rejected():
            st.error("The server does not accept this token. It may have been replaced.", icon=":material/key_off:")
        st.write(
            f"The server at {escaping.markdown(session.server())} requires a token.\n\n"
            "The link printed by `steadynorm up` or `steadynorm server` contains one.\n\n"
            "For a shared server, ask its administrator, who creates tokens with `steadynorm token new`."
        )
        with st.form("sign_in", border=False):
            token = st.text_input("Token", type="password", autocomplete="current-password")
            if st.form_submit_button("Sign in", type="primary") and token.strip():
                session.sign_in(token)
                st.rerun()
    st.stop()
