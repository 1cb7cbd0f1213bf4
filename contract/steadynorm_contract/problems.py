"""TODO"""

from __future__ import annotations

import msgspec

from steadynorm_contract.settings import FieldError

__all__ = ["UNSUPPORTED_VERSION", "Problem"]


UNSUPPORTED_VERSION = "urn:steadynorm:problem:unsupported-version"
"""`type` of the problem that agent and server do not speak one schema version: whoever asked need not ask again."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 problem JSON. `detail` says what to do; `errors` names fields and rules where it applies."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    instance: str | None = None  # the request's path
    errors: list[FieldError] | None = None
    request_id: str | None = None  # as in the answer's X-Request-ID and in the server's log
