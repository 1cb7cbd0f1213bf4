"""One-time links for the owner of a local server, as Jupyter prints them: the link has no token, and works once.

    http://127.0.0.1:8501/link/TICKET     within ten minutes; then a cookie keeps the browser signed in

Who can read the token in the home folder can make a ticket, which is signed with it. So is the cookie: with a new token
both are void.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from urllib.parse import urlencode

PATH = "/link/{ticket}"
TICKET_S, COOKIE_S = 600, 30 * 86_400


def make_link(dashboard: str, token: str, run_id: str | None = None, clock: Callable[[], float] = time.time) -> str:
    """A link to the runs overview, or to one run."""
    query = f"?{urlencode({'run': run_id})}" if run_id else ""
    return dashboard.rstrip("/") + PATH.format(ticket=_sealed("ticket", token, clock() + TICKET_S)) + query


def cookie_name(port: int) -> str:
    """The cookie of the dashboard at this port: browsers send a host's cookies to all of its ports."""
    return f"steadynorm-owner-{port}"


def make_cookie(token: str, clock: Callable[[], float] = time.time) -> str:
    """The cookie's value."""
    return _sealed("cookie", token, clock() + COOKIE_S)


def is_cookie(value: str | None, token: str, clock: Callable[[], float] = time.time) -> bool:
    """Whether this dashboard's owner was given it, and it is not too old."""
    return _is_valid("cookie", value or "", token, clock())


class Tickets:
    """Which tickets were used in this process. Those of another one, as after a restart, expire soon."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def redeem(self, ticket: str, token: str) -> bool:
        """Whether it is good and was not used before; from now on it is used."""
        now = self._clock()
        if not _is_valid("ticket", ticket, token, now):
            return False
        with self._lock:
            self._used = {used: until for used, until in self._used.items() if until > now}
            if ticket in self._used:
                return False
            self._used[ticket] = now + TICKET_S
        return True


def _sealed(kind: str, token: str, expires: float) -> str:
    text = f"{int(expires)}.{secrets.token_urlsafe(12)}"
    return f"{text}.{_signature(kind, token, text)}"


def _is_valid(kind: str, value: str, token: str, now: float) -> bool:
    text, _, signature = value.rpartition(".")
    expires = text.partition(".")[0]
    good = hmac.compare_digest(signature.encode(), _signature(kind, token, text).encode())
    return good and expires.isascii() and expires.isdigit() and now < int(expires)


def _signature(kind: str, token: str, text: str) -> str:
    return hmac.new(hashlib.sha256(token.encode()).digest(), f"{kind} {text}".encode(), hashlib.sha256).hexdigest()
