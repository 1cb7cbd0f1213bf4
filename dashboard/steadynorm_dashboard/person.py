"""Who a proxy before the dashboard says has signed in, as oauth2-proxy does.

STEADYNORM_TRUSTED_PROXY=10.1.2.3      the proxy's address: `components.proxy_identity` removes anybody else's headers
STEADYNORM_PROXY_TOKEN=…               the server's, which lets this dashboard speak for people; or …_TOKEN_FILE
STEADYNORM_PROXY_USER_HEADER, STEADYNORM_PROXY_GROUPS_HEADER    as the server has them

The server gives the person their role by their groups, and their name stands in the audit list.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Headers(Protocol):
    """The headers of a request."""

    def get_all(self, key: str) -> list[str]:
        """All values of one header."""
        ...


def is_expected() -> bool:
    """Whether people sign in at a proxy."""
    return bool(os.environ.get("STEADYNORM_TRUSTED_PROXY"))


def header_names() -> tuple[str, str]:
    """The headers of the person's name and of their groups."""
    return (
        os.environ.get("STEADYNORM_PROXY_USER_HEADER") or "X-Forwarded-Email",
        os.environ.get("STEADYNORM_PROXY_GROUPS_HEADER") or "X-Forwarded-Groups",
    )


def token() -> str:
    """The token with which this dashboard speaks for people. Empty: there is none, and it speaks for nobody."""
    if file := os.environ.get("STEADYNORM_PROXY_TOKEN_FILE"):
        return Path(file).read_text("utf-8").strip()
    return os.environ.get("STEADYNORM_PROXY_TOKEN", "").strip()


def named_in(headers: Headers) -> dict[str, str]:
    """The headers that name who asks, for the server. Empty: the proxy names nobody, or more than one."""
    if not is_expected() or not token():
        return {}
    user, groups = header_names()
    names, listed = headers.get_all(user), headers.get_all(groups)
    if len(names) != 1 or not names[0].strip() or len(listed) > 1:
        return {}
    return {user: names[0], **({groups: listed[0]} if listed else {})}
