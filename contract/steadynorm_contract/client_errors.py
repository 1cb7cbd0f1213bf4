"""Errors of `client`, as one tree. Whether a write was made is known, unless the error is OutcomeUnknown."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import urllib3

from steadynorm_contract.discovery import is_loopback
from steadynorm_contract.problems import Problem
from steadynorm_contract.settings import FieldError

__all__ = [
    "BY_STATUS",
    "ClientError",
    "Conflict",
    "Finding",
    "Forbidden",
    "InvalidChange",
    "NotFound",
    "OutcomeUnknown",
    "ServerUnreachable",
    "Unauthorized",
]


_SURE_S = 2.0
"""A write that is not there may still wait in the server: it counts as not made after the server answered so long."""
_POLL_S = 0.25


class Finding(NamedTuple):
    """What came of a write.

    final: a write that was not made cannot be made any more. result: what the write would have returned, if made.
    """

    made: bool
    text: str
    final: bool = True
    result: Any = None


class ClientError(Exception):
    """A request failed.

    Attributes:
        problem: The server's problem JSON; None if it sent none.
        status: HTTP status of the response; None without a response.
    """

    def __init__(self, message: str, problem: Problem | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.problem = problem
        self.status = status


class ServerUnreachable(ClientError):
    """There was no complete response.

    Attributes:
        timed_out: The connection was made, and no response came in time.
        sent: The server may have received the request.
        outcome_unknown: The request may have been carried out: the error is an OutcomeUnknown.
    """

    outcome_unknown = False

    def __init__(self, server: str, reason: Exception) -> None:
        self.timed_out = isinstance(reason, urllib3.exceptions.ReadTimeoutError)
        self.sent = not isinstance(
            reason,
            urllib3.exceptions.ConnectTimeoutError
            | urllib3.exceptions.NewConnectionError
            | urllib3.exceptions.LocationValueError,
        )
        if self.timed_out:
            advice = "It is overloaded or hangs: see its log, or try again."
        elif isinstance(reason, urllib3.exceptions.SSLError):
            advice = "Its certificate is not accepted here, or it speaks http and not https."
        elif is_loopback(server):
            advice = "Start one with: steadynorm up"
        else:
            advice = "Is it running, and can this machine reach it?"
        super().__init__(f"no steadynorm server answers at {server} ({type(reason).__name__}). {advice}")


class OutcomeUnknown(ServerUnreachable):
    """A write was sent, and no response says whether it was carried out: a time-out, a broken connection, a 5xx.

    It may have been carried out, or may be yet. `settle` finds out once the server answers.
    """

    outcome_unknown = True

    def __init__(self, error: ClientError, server: str, look: Callable[[], Finding]) -> None:
        advice = "The request may have been carried out: check the present state before you repeat it."
        self.timed_out = isinstance(error, ServerUnreachable) and error.timed_out
        self.sent = True
        if isinstance(error, ServerUnreachable):
            what = "did not answer in time" if self.timed_out else "closed the connection without an answer"
            said = f"the server at {server} {what}."
        else:
            said = str(error)
        ClientError.__init__(self, f"{said} {advice}", error.problem, error.status)
        self.look = look
        """Reads what came of the write, once. Raises ClientError."""

    def settle(self, within_s: float = 15.0) -> Finding | None:
        """Look until the server says what came of the write. None: it did not within so many seconds.

        Raises:
            ClientError: The server answered, and refuses to be read, for example by this token.
        """
        deadline = time.monotonic() + within_s
        found: Finding | None = None
        since = 0.0
        while True:
            before = found
            try:
                found = self.look()
            except ClientError as error:
                if error.status is not None and 400 <= error.status < 500 and error.status != 429:
                    raise
                found = None
            now = time.monotonic()
            if found is not None and (found.made or found.final):
                return found
            if found is None or found != before:
                since = now
            elif now - since >= _SURE_S:
                return found
            if found is None and now >= deadline:
                return None
            time.sleep(_POLL_S)


class Unauthorized(ClientError):
    """The token is missing, unknown to the server (401), or none that could be sent."""


class Forbidden(ClientError):
    """The token's role does not allow this (403)."""


class NotFound(ClientError):
    """There is no such run, schedule or page (404)."""


class Conflict(ClientError):
    """The settings were changed concurrently (412). Read them again before the next attempt."""


class InvalidChange(ClientError):
    """A value is invalid (422). `errors` names the fields."""

    @property
    def errors(self) -> list[FieldError]:
        """Each field, its rule and what to do."""
        return (self.problem.errors if self.problem else None) or []


BY_STATUS: dict[int, type[ClientError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    412: Conflict,
    422: InvalidChange,
}
