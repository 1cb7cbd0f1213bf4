"""One visitor: their token, and the client that speaks to the server with it.

A token is the visitor's own: `?token=` in the link they were given, taken once and removed from the address; or typed
into the sign-in box. Only where server and dashboard both listen on this machine alone is the visitor its user, and
the token in their home folder, which the command line uses too, is theirs.
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
from steadynorm_dashboard.data.availability import ABSENCE
from steadynorm_dashboard.formatting import escaping

__all__ = [
    "client",
    "forget_token",
    "identity",
    "lends_home_token",
    "me",
    "reachable",
    "read_only",
    "refused",
    "seen",
    "server",
    "sign_in",
    "sign_out",
    "take_token_from_link",
    "why_locked",
]

_TOKEN = "visitor_token"
_REFUSED = "visitor_refused"  # a token that the server did not accept; not tried again
_CLIENT = "visitor_client"
_READ_ONLY = "visitor_read_only"
_LEFT = "visitor_left"  # they signed out: nothing is lent until they sign in
_ME = "visitor_me"  # (whose client, monotonic seconds, who they are)
_ME_FRESH_S = 30.0  # a token's role changes with the server's tokens file
_SEEN = "visitor_seen"  # (whose, answers by key)
_TIMEOUT_S = 5.0


def server() -> str:
    """The server's address: `--server` as `launch` passes it, else `$STEADYNORM_SERVER`, else the user's own."""
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
    st.session_state.pop(_LEFT, None)
    st.session_state.pop(_REFUSED, None)
    st.session_state.pop(_READ_ONLY, None)
    st.session_state.pop(_SEEN, None)


def sign_out() -> None:
    """Forget this visitor, with all that they saw and drafted: the next one at this browser may be another."""
    for key in list(st.session_state):
        del st.session_state[key]
    st.session_state[_LEFT] = True


def lends_home_token(server: str, bound_to: str | None) -> bool:
    """Whether a visitor must be this machine's user: server and dashboard both listen on loopback only.

    On a machine of several users that is too kind, and `STEADYNORM_DASHBOARD_SIGN_IN=always` asks everybody.
    """
    if os.environ.get("STEADYNORM_DASHBOARD_SIGN_IN") == "always":
        return False
    return is_loopback(server) and bool(bound_to) and is_loopback(f"http://{bound_to}")


def client() -> Client | None:
    """A client with the visitor's token; None: they have to sign in."""
    address = server()
    token = st.session_state.get(_TOKEN)
    if not token and _LEFT not in st.session_state and lends_home_token(address, st.get_option("server.address")):
        token = find_token(address)
    if not token or token == st.session_state.get(_REFUSED):
        return None
    key = (address, token)
    held = st.session_state.get(_CLIENT)
    if held is None or held[0] != key:
        held = (key, Client(address, token, timeout_s=_TIMEOUT_S))
        st.session_state[_CLIENT] = held
    made: Client = held[1]
    return made


def identity() -> tuple[str, str] | None:
    """Whose answers these are: the server and the token in use. None before the first `client()`."""
    held = st.session_state.get(_CLIENT)
    return None if held is None else held[0]


def me() -> TokenInfo | None:
    """Who the server takes this visitor for. None: it does not say, for it is away, or too old to know."""
    asked = client()
    if asked is None:
        return None
    held: tuple[object, float, TokenInfo | None] | None = st.session_state.get(_ME)
    if held is not None and held[0] == identity() and time.monotonic() - held[1] < _ME_FRESH_S:
        return held[2]
    before = held[2] if held is not None and held[0] == identity() else None
    if ABSENCE.of(asked.server) is not None:
        return before
    try:
        found: TokenInfo | None = asked.me()
    except Unauthorized:
        return None  # whoever reads next forgets the token, and says so
    except ServerUnreachable as error:
        ABSENCE.begin(asked, error)
        return before
    except ClientError:
        found = before
    st.session_state[_ME] = (identity(), time.monotonic(), found)
    return found


def reachable() -> bool:
    """Whether the server answers this visitor at this moment."""
    asked = client()
    if asked is None or ABSENCE.of(asked.server) is not None:
        return False
    try:
        return asked.me() is not None
    except ServerUnreachable as error:
        ABSENCE.begin(asked, error)
        return False
    except ClientError as error:
        return error.problem is not None


def forget_token() -> None:
    """The server refused the token in use: ask for another one."""
    if held := st.session_state.pop(_CLIENT, None):
        st.session_state[_REFUSED] = held[0][1]
    st.session_state.pop(_TOKEN, None)
    st.session_state.pop(_SEEN, None)


def seen() -> OrderedDict[str, object]:
    """What `snapshot` keeps for this visitor, oldest first. Another token or server begins with nothing."""
    held: tuple[tuple[str, str] | None, OrderedDict[str, object]] | None = st.session_state.get(_SEEN)
    if held is None or held[0] != identity():
        held = st.session_state[_SEEN] = (identity(), OrderedDict())
    return held[1]


def refused() -> bool:
    """Whether the last token was refused."""
    return _REFUSED in st.session_state


def read_only(learned: bool = False) -> bool:
    """Whether this visitor may look and not change. `learned`: the server just said so."""
    if learned:
        st.session_state[_READ_ONLY] = True
    known = me()
    return _READ_ONLY in st.session_state if known is None else "operator" not in known.roles


def why_locked() -> str:
    """What a visitor reads who may not change anything. Markdown."""
    known = me()
    who = f"You are signed in as {escaping.markdown(known.name, 40)}, who" if known else "Your token"
    return f"{who} may look and not change. Ask for an operator token to change settings."
