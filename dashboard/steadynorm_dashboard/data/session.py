"""A visitor's session: their token, the client that uses it, their role, and the answers they were shown.

The token comes from `?token=` in a link, which is removed from the address at once, or from the sign-in form. Without
one, a proxy may say who has signed in: `person`. If there is none, server and dashboard both listen on loopback
only, and the request has no proxy's header, the token in the home folder is used for a browser that has been signed in
by a link of `steadynorm up` or `steadynorm link`: `owner_link`. STEADYNORM_DASHBOARD_SIGN_IN=never uses it for every
visitor on loopback, which is whoever uses this machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections import OrderedDict
from collections.abc import Mapping

import streamlit as st
import urllib3

from steadynorm_contract.client import Client, ClientError, ServerUnreachable, Unauthorized
from steadynorm_contract.discovery import find_server, find_token, is_loopback
from steadynorm_contract.tokens import TokenInfo
from steadynorm_dashboard import owner_link, person
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
_PROXY_HEADERS = frozenset(
    ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip")
)


def server() -> str:
    """The server's address: `--server` as `launch` passes it, else `$STEADYNORM_SERVER`, else the user's local one."""
    arguments = sys.argv[1:]
    if "--server" in arguments[:-1]:
        return arguments[arguments.index("--server") + 1].rstrip("/")
    return find_server().server.rstrip("/")


def public_server() -> str:
    """The server's address for people and their jobs: `$STEADYNORM_PUBLIC_SERVER`, else the one used here."""
    return (os.environ.get("STEADYNORM_PUBLIC_SERVER") or server()).rstrip("/")


def take_token_from_link() -> None:
    """Move `?token=` from the address, where it would be bookmarked and shared, into the session."""
    if token := st.query_params.get("token"):
        sign_in(token)
        del st.query_params["token"]


def sign_in(token: str) -> None:
    """Use `token` from now on."""
    st.session_state[_TOKEN] = token.strip()
    for name in (_SIGNED_OUT, _REJECTED, _READ_ONLY, _ANSWERS):
        st.session_state.pop(name, None)


def sign_out() -> None:
    """Forget this visitor with all their answers and drafts: the next one at this browser may be someone else."""
    for key in list(st.session_state):
        del st.session_state[key]
    st.session_state[_SIGNED_OUT] = True


def uses_home_token(server: str, bound_to: str | None, headers: Mapping[str, str] | None = None) -> bool:
    """Whether every visitor gets the token in the home folder: where `STEADYNORM_DASHBOARD_SIGN_IN=never`."""
    lends = os.environ.get("STEADYNORM_DASHBOARD_SIGN_IN") == "never" and not person.is_expected()
    return lends and is_local(server, bound_to, headers)


def is_local(server: str, bound_to: str | None, headers: Mapping[str, str] | None = None) -> bool:
    """Whether server and dashboard both listen on loopback only, and a request was made on this machine.

    headers: the request's. A proxy's, and a Host that is not this machine's own, show that the visitor may be anybody
    whom the proxy lets in.
    """
    given = {name.lower(): value for name, value in (headers or {}).items()}
    if not _PROXY_HEADERS.isdisjoint(given) or not is_loopback(f"http://{given.get('host', 'localhost')}"):
        return False
    return is_loopback(server) and bool(bound_to) and is_loopback(f"http://{bound_to}")


def client() -> Client | None:
    """A client with the visitor's token. None: they have to sign in."""
    address, named = server(), dict[str, str]()
    token = st.session_state.get(_TOKEN)
    if not token and _SIGNED_OUT not in st.session_state:
        bound_to = st.get_option("server.address")
        if named := person.named_in(st.context.headers):
            token = person.token()
        elif is_local(address, bound_to, st.context.headers):
            owners = find_token(address)
            lent = uses_home_token(address, bound_to, st.context.headers)
            cookie = st.context.cookies.get(owner_link.cookie_name(st.get_option("server.port")))
            if owners and (lent or owner_link.is_cookie(cookie, owners)):
                token = owners
    if not token or token == st.session_state.get(_REJECTED):
        return None
    key = (address, token, *named.values())
    held = st.session_state.get(_CLIENT)
    if held is None or held[0] != key:
        try:
            held = (key, Client(address, token, timeout_s=_TIMEOUT_S, headers=named))
        except Unauthorized:  # an invisible character came along as it was copied
            st.session_state[_REJECTED] = token
            return None
        st.session_state[_CLIENT] = held
    made: Client = held[1]
    return made


def identity() -> tuple[str, ...] | None:
    """The server, the token in use, and whom a proxy named with it. None before the first `client()`."""
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


def unreachable() -> ServerUnreachable | None:
    """Why the server does not answer anybody; None where it does. For visitors without a token."""
    try:
        urllib3.request("GET", f"{server()}/healthz", timeout=_TIMEOUT_S, retries=False)
    except urllib3.exceptions.HTTPError as error:
        return ServerUnreachable(server(), error)
    return None


def forget_token() -> None:
    """The server rejected the token in use: the visitor has to sign in again."""
    if held := st.session_state.pop(_CLIENT, None):
        st.session_state[_REJECTED] = held[0][1]
    st.session_state.pop(_TOKEN, None)
    st.session_state.pop(_ANSWERS, None)


def answers() -> OrderedDict[str, object]:
    """The answers that `queries` stores for this visitor, oldest first. Another token or server starts with none."""
    held: tuple[tuple[str, ...] | None, OrderedDict[str, object]] | None = st.session_state.get(_ANSWERS)
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
