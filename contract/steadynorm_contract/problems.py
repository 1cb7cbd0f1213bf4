"""Errors of the API as RFC 9457 problem JSON."""

import msgspec

from steadynorm_contract.settings import FieldError

__all__ = ["UNSUPPORTED_VERSION", "Problem"]


UNSUPPORTED_VERSION = "urn:steadynorm:problem:unsupported-version"
"""`type` of the problem that agent and server have different schema versions: a retry cannot succeed."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem. `detail` says what to do; `errors` names invalid fields and their rules."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    instance: str | None = None  # the request's path
    errors: list[FieldError] | None = None
    request_id: str | None = None  # as in the response's X-Request-ID and in the server's log
