"""Requests of `client`: addresses, tokens, errors of answers, and writes whose answer is lost."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3

from steadynorm_contract.client_errors import (
    BY_STATUS,
    ClientError,
    Finding,
    InvalidChange,
    OutcomeUnknown,
    ServerUnreachable,
    Unauthorized,
)
from steadynorm_contract.discovery import DEFAULT_SERVER, check_address, find_server, find_token
from steadynorm_contract.problems import Problem
from steadynorm_contract.settings import FieldError

__all__ = ["Look", "Transport"]

_T = TypeVar("_T")
Look = Callable[[], Finding]
"""Finds out what came of a write, see `outcomes`."""


class Transport:
    """Sends the requests of a Client."""

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        timeout_s: float = 10.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        try:
            self.server = check_address(server or find_server().server)
        except ValueError as error:
            raise ClientError(str(error)) from None
        self._token = token or find_token(self.server) or ""
        if not self._token.isprintable() or max(self._token, default="") > "\xff":  # no header holds it
            raise Unauthorized("the token must be printable Latin-1, in one line: got other characters. Copy it again.")
        self._headers = dict(headers or {})
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s), retries=False, maxsize=8
        )

    def _send(self, method: str, path: str, body: object, kind: type[_T], look: Look | None, **headers: str) -> _T:
        """look: finds out what came of the write; None: the request writes nothing."""
        headers["Content-Type"] = "application/json"
        _require_finite(body)
        try:
            return _decode(self._request(method, path, body=msgspec.json.encode(body), headers=headers), kind)
        except ClientError as error:
            raise self._with_outcome(error, look) from error.__cause__

    def _delete(self, path: str, look: Look) -> None:
        try:
            self._request("DELETE", path)
        except ClientError as error:
            raise self._with_outcome(error, look) from error.__cause__

    def _with_outcome(self, error: ClientError, look: Look | None) -> ClientError:
        """The error of a write: OutcomeUnknown, unless it was not sent or its answer is a definite one."""
        sent = error.sent if isinstance(error, ServerUnreachable) else not 300 <= (error.status or 0) < 500
        return OutcomeUnknown(error, self.server, look) if look is not None and sent else error

    def _get(self, path: str, kind: type[_T], query: Mapping[str, object] | None = None) -> _T:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        return _decode(self._request("GET", path + (f"?{urlencode(given, doseq=True)}" if given else "")), kind)

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        answer = self._open(method, path, body=body, headers=headers)
        if 300 <= answer.status < 400:  # not followed: the token is for this server
            there = answer.headers.get("Location", "").partition("/api/v1/")[0][:200] or "another address"
            raise ClientError(f"{self.server} redirects to {there}: is that the server's?", status=answer.status)
        if answer.status < 400:
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise ClientError(
                    f"there is no steadynorm server at {self.server}: it answered with a web page. A dashboard has "
                    f"another address than its server, which is such as {DEFAULT_SERVER}."
                )
            return answer.data
        raise self._error(method, path, answer.status, answer.data)

    def _open(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, base: str = "/api/v1", **options: Any
    ) -> urllib3.BaseHTTPResponse:
        sent = {**self._headers, **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            return self._pool.request(method, f"{self.server}{base}{path}", headers=sent, **options)
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnreachable(self.server, error) from error

    def _error(self, method: str, path: str, status: int, data: bytes) -> ClientError:
        try:
            problem = msgspec.json.decode(data, type=Problem)
        except msgspec.MsgspecError:
            return ClientError(f"{self.server} answered {status} to {method} {path}.", status=status)
        return BY_STATUS.get(status, ClientError)(problem.detail, problem, status)


def _require_finite(body: object) -> None:
    """Raises InvalidChange: JSON would have null for the number, which stands for `off` or a default."""

    def check(name: str, value: object) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            rule = "must be a finite number"
            error = FieldError(name, rule, f"{name} {rule}: got {value}.")
            problem = Problem(title="Invalid value", status=422, detail=error.message, errors=[error])
            raise InvalidChange(problem.detail, problem, problem.status)
        if isinstance(value, Mapping):
            for key, each in value.items():
                check(str(key), each)
        elif isinstance(value, list | tuple):
            for each in value:
                check(name, each)

    check("the value", msgspec.to_builtins(body, str_keys=True))


def _decode(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ClientError(
            f"the response is not a {kind.__name__}: {error}. Are client and server of the same version?"
        ) from error
