"""A visitor's session: their token, the client that uses it, their role, and the answers they were shown.

The token comes from `?token=` in a link, which is removed from the address at once, or from the sign-in form. If server
and dashboard both listen on loopback only, the visitor must be this machine's user, and the token in their home folder
is used, as the command line does.
"""

from __future__ import annotations

import os
import sys
import time
from collections import OrderedDict

import streamlit as st

from steadynorm_contract.client import Client, ClientError, ServerUnreachable, Unauthorized
from steadynorm_contract.discovery import find_server, find_token, is_loopback
from steadynorm_contract.tokens import TokenInfo
from steadynorm_dashboard.data.availability import breaker
from steadynorm_dashboard.formatting import escaping

_TOKEN = "visitor_token"
_REJECTED = "visitor_rejected"  # a token that the server did not accept; not tried again
_CLIENT = "visitor_client"
_READ_ONLY = "visitor_read_only"
_SIGNED_OUT = "visitor_signed_out"  # the token in the home folder is not used until they sign in
_ME = "visitor_me"  # (identity, monotonic seconds, answer)
_ME_FRESH_S = 30.0  # a token's role changes with the server's tokens file
_ANSWERS = "visitor_answers"  # (identity, answers by key)
_TIMEOUT_S = 5.0


def server() -> str:
    """The server's address: `--server` as `launch` passes it, else `$STEADYNORM_SERVER`, else the user's local one."""
    arguments = sys.argv[1:]
    if "--server" in arguments[:-1]:
        return arguments[arguments.index("--server") + 1].rstrip("/")
    return find_server().server.rstrip("/")


def take_token_from_link() -> None:
    """Move `?token=` from the address, where it would be bookmarked and shared, into the session."""
    if token := st.query_params.get("token"):
        sign_in(token)
        del st.query_params["token"]


def sign_in(token: str) -> None:
    """Use `token` from now on."""
    st.session_state[_TOKEN] = token.strip()
    st.session_state.pop(_SIGNED_OUT, None)
    st.session_state.pop(_REJECTED, None)
    st.session_state.pop(_READ_ONLY, None)
    st.session_state.pop(_ANSWERS, None)


def sign_out() -> None:
    """Forget this visitor with all their answers and drafts: the next one at this browser may be someone else."""
    for key in list(st.session_state):
        del st.session_state[key]
    st.session_state[_SIGNED_OUT] = True


def uses_home_token(server: str, bound_to: str | None) -> bool:
    """Whether visitors get the token in the home folder: server and dashboard both listen on loopback only.

    `STEADYNORM_DASHBOARD_SIGN_IN=always` turns that off, for machines that several users share.
    """
    if os.environ.get("STEADYNORM_DASHBOARD_SIGN_IN") == "always":
        return False
    return is_loopback(server) and bool(bound_to) and is_loopback(f"http://{bound_to}")


def client() -> Client | None:
    """A client with the visitor's token. None: they have to sign in."""
    address = server()
    token = st.session_state.get(_TOKEN)
    if not token and _SIGNED_OUT not in st.session_state and uses_home_token(address, st.get_option("server.address")):
        token = find_token(address)
    if not token or token == st.session_state.get(_REJECTED):
        return None
    key = (address, token)
    held = st.session_state.get(_CLIENT)
    if held is None or held[0] != key:
        held = (key, Client(address, token, timeout_s=_TIMEOUT_S))
        st.session_state[_CLIENT] = held
    made: Client = held[1]
    return made


def identity() -> tuple[str, str] | None:
    """The server and the token in use. None before the first `client()`."""
    held = st.session_state.get(_CLIENT)
    return None if held is None else held[0]


def me() -> TokenInfo | None:
    """The visitor's name and roles. None: not known, since the server is away."""
    asked = client()
    if asked is None:
        return None
    held: tuple[object, float, TokenInfo | None] | None = st.session_state.get(_ME)
    if held is not None and held[0] == identity() and time.monotonic() - held[1] < _ME_FRESH_S:
        return held[2]
    before = held[2] if held is not None and held[0] == identity() else None
    try:
        found: TokenInfo | None = breaker.call(asked, Client.me)
    except Unauthorized:
        return None  # the next read forgets the token and shows the sign-in form
    except ServerUnreachable:
        return before
    except ClientError:
        found = before
    st.session_state[_ME] = (identity(), time.monotonic(), found)
    return found


def is_reachable() -> bool:
    """Whether the server answers this visitor now."""
    asked = client()
    if asked is None:
        return False
    try:
        return breaker.call(asked, Client.me) is not None
    except ServerUnreachable:
        return False
    except ClientError as error:
        return error.problem is not None


def forget_token() -> None:
    """The server rejected the token in use: the visitor has to sign in again."""
    if held := st.session_state.pop(_CLIENT, None):
        st.session_state[_REJECTED] = held[0][1]
    st.session_state.pop(_TOKEN, None)
    st.session_state.pop(_ANSWERS, None)


def answers() -> OrderedDict[str, object]:
    """The answers that `queries` stores for this visitor, oldest first. Another token or server starts with none."""
    held: tuple[tuple[str, str] | None, OrderedDict[str, object]] | None = st.session_state.get(_ANSWERS)
    if held is None or held[0] != identity():
        held = st.session_state[_ANSWERS] = (identity(), OrderedDict())
    return held[1]


def token_rejected() -> bool:
    """Whether the server rejected the last token."""
    return _REJECTED in st.session_state


def read_only(learned: bool = False) -> bool:
    """Whether this visitor has read-only access. learned: the server just refused a change of theirs."""
    if learned:
        st.session_state[_READ_ONLY] = True
    known = me()
    return _READ_ONLY in st.session_state if known is None else "operator" not in known.roles


def read_only_reason() -> str:
    """Why a visitor with read-only access cannot change anything. Markdown."""
    known = me()
    who = f"You are signed in as {escaping.markdown(known.name, 40)}, which" if known else "Your token"
    return f"{who} has read-only access. Ask for an operator token to change settings."
