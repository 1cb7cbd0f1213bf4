"""Messages of a page that has nothing to show, or of a change that was refused: each says what to do."""

from __future__ import annotations

import shlex

import streamlit as st

from steadynorm_contract.client import (
    ClientError,
    Conflict,
    Finding,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    ServerUnreachable,
    Unauthorized,
)
from steadynorm_contract.discovery import attach_lines
from steadynorm_dashboard.data import session
from steadynorm_dashboard.formatting import escaping


def no_runs() -> None:
    """No run has registered yet."""
    st.header("No runs yet", anchor=False)
    st.write("Add these two lines to a training script, after the optimizer is created. The run then appears here.")
    st.code(attach_lines(session.public_server()), language="python")
    st.write("Or start an example training:")
    st.code("steadynorm demo", language="shell")


def show_error(error: ClientError | None) -> None:
    """Why a read failed, if it did. A rejected token leads to the sign-in form."""
    if error is None:
        return
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
    if isinstance(error, OutcomeUnknown):
        where = "changes" if what == "settings" else what
        return f"The outcome is unknown: look at the run's {where}. {escaping.markdown(str(error), 600)}"
    return f"Nothing was changed. {escaping.markdown(str(error), 600)}"


def outcome(answer: object, what: str = "settings") -> str | None:
    """The message for what a write of `what` came to, see `Write.answer`. None: it was made."""
    if isinstance(answer, Finding):
        return None if answer.made else finding(answer)
    return write_error(answer, what) if isinstance(answer, Exception) else None


def finding(found: Finding) -> str:
    """What came of a change whose answer was lost."""
    said = escaping.markdown(found.text[:1].upper() + found.text[1:], 600)
    return f"{said}." if found.made else f"{said}. Your input is kept: check it, then send it again."


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


def _rerun_when_it_answers() -> None:
    if session.unreachable() is None:
        st.rerun()


def sign_in() -> None:
    """Ask for a token; where no server answers, say that instead."""
    if (absent := session.unreachable()) is not None:
        show_error(absent)
        st.fragment(_rerun_when_it_answers, run_every=3)()
        return
    _, middle, _ = st.columns([1, 2, 1])
    with middle:
        st.header("Sign in", anchor=False)
        if session.token_rejected():
            st.error("The server does not accept this token. It may have been replaced.", icon=":material/key_off:")
        st.write(
            f"The server at {escaping.markdown(session.server())} requires a token.\n\n"
            "Is it your own, on this machine? This prints a link that signs you in:"
        )
        run_id = st.query_params.get("run", "")
        st.code(f"steadynorm link {shlex.quote(run_id)}" if run_id else "steadynorm link", language="shell")
        st.write("For a shared server, ask its administrator, who creates tokens with `steadynorm token new`.")
        with st.form("sign_in", border=False):
            token = st.text_input("Token", type="password", autocomplete="current-password")
            if st.form_submit_button("Sign in", type="primary") and token.strip():
                session.sign_in(token)
                st.rerun()
