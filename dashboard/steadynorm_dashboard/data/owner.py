"""GET /link/TICKET: signs in the browser of the owner of a local server, once for each link."""

from __future__ import annotations

import streamlit as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from steadynorm_contract.discovery import find_token
from steadynorm_dashboard import owner_link
from steadynorm_dashboard.data import session

_TICKETS = owner_link.Tickets()
_REFUSED = (
    "This link does not work: it was used, is older than ten minutes, or is of another server. On the dashboard's "
    "machine `steadynorm link` prints a new one."
)


async def redeem(request: Request) -> Response:
    """To the page, with a cookie; 403 for a ticket that is not good."""
    address = session.server()
    local = session.is_local(address, st.get_option("server.address"), request.headers)
    token = find_token(address) if local else None
    if not token or not _TICKETS.redeem(request.path_params["ticket"], token):
        return PlainTextResponse(_REFUSED, 403)
    home = request.url.path.rpartition("/link/")[0] + "/"
    answer = RedirectResponse(f"{home}?{request.url.query}" if request.url.query else home, 303)
    answer.set_cookie(
        owner_link.cookie_name(st.get_option("server.port")),
        owner_link.make_cookie(token),
        max_age=owner_link.COOKIE_S,
        path=home,
        httponly=True,
        samesite="strict",
    )
    return answer
