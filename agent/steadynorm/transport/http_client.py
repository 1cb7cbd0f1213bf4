"""HTTP from the agent to its server: four calls, and one tree of errors that says what to do next."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import monotonic, time
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import urllib3

from steadynorm.mailbox import SettingsUpdate
from steadynorm.transport.connections import Connections
from steadynorm.transport.server_version import Count, KnownServer, one_line
from steadynorm_contract import __version__
from steadynorm_contract.codec import MalformedMessage, decode_json, encode_json
from steadynorm_contract.discovery import find_token
from steadynorm_contract.problems import UNSUPPORTED_VERSION, Problem
from steadynorm_contract.telemetry import MAX_BATCH_BYTES, PACE_S, RunFinish, RunRegistration

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 5.0
MAX_RESPONSE_BYTES = 4 * 1024 * 1024
"""Settings and defaults take some 20 KB: more comes from something else, and training needs the memory."""
_READ_BYTES = 16 * 1024

LONGEST_PACE_S = 10.0
"""Whatever a server says: what is not sent is lost with the process."""

_BODY_STATUSES = (400, 413, 422)  # the body itself is at fault, so sending it again cannot help

_T = TypeVar("_T")


class TransportError(Exception):
    """A request did not succeed."""


class ServerUnavailable(TransportError):
    """No response, or the server cannot respond now: retry later."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RunNotFound(TransportError):
    """The server does not know the run (404): register again."""


class StaleIncarnation(TransportError):
    """The server knows a newer incarnation of the run (409): register again."""


class RequestRejected(TransportError):
    """The server rejects it (401, 403, 422, ...), until a person fixes something. status: 0: no error status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class BatchRejected(RequestRejected):
    """The server knows the run and will never accept this batch (400, 413, 422)."""

    @property
    def too_large(self) -> bool:
        """Whether it might accept parts of it."""
        return self.status == 413


class VersionRejected(RequestRejected):
    """Agent and server do not share a schema version: nothing more can be sent."""


@dataclass(frozen=True, slots=True)
class RegistrationState:
    """What the server knows of a run. acknowledged: the last sequence stored of this incarnation.

    previous: the last one stored of the registration's `previous_instance`; None: unknown. max_scalars: names of
    logged scalars that it stores; 0: it is too old to. max_knobs: 0: it is older than LATER_SETTINGS.
    """

    incarnation: int
    acknowledged: int
    previous: int | None = None
    max_scalars: int = 0
    max_knobs: int = 0


class HttpClient:
    """Talks to one server. For one thread, except `abort()`, by which another thread ends a request in progress.

    server: address such as http://127.0.0.1:8470. token: None: on loopback that of the user's own server, looked up
    each time, since that server may be started, and create its token, after the training. known: what another thread's
    client of the same server learns of it, too.
    """

    def __init__(self, server: str, token: str | None = None, known: KnownServer | None = None) -> None:
        self._root = f"{server.rstrip('/')}/api/v1"
        self._server, self._token = server, token
        self._known = known or KnownServer()
        self.pace_s = PACE_S
        """Seconds between two batches, as the server said last."""
        self._connections = Connections()
        # `retries=False` also returns redirects as responses: a server must not be able to forward the token.
        self._pool = urllib3.PoolManager(retries=False, maxsize=1)
        self._pool.pool_classes_by_scheme = self._connections.pool_classes()

    def register(
        self, registration: RunRegistration, timeout_s: float = READ_TIMEOUT_S
    ) -> tuple[RegistrationState, SettingsUpdate]:
        """Register the run. Returns its state at the server, and the desired settings."""
        body = encode_json(registration)
        if compress := len(body) > MAX_BATCH_BYTES:  # which proxies are set to take
            body = gzip.compress(body, compresslevel=1, mtime=0)
        data = self._request("POST", "/runs", body, "application/json", timeout_s, encoding="gzip" if compress else "")
        response = _decode(data, _Registered)
        self._known.version, self._known.defaults = one_line(response.server_version)[:40], response.defaults
        previous, scalars = response.previous_acknowledged, response.max_scalars
        acknowledged, knobs = response.acknowledged, response.max_knobs
        state = RegistrationState(response.incarnation, acknowledged, previous, scalars, knobs)
        return state, self._read_update(response.desired)

    def send(self, run_id: str, batch: bytes, timeout_s: float = READ_TIMEOUT_S) -> tuple[int, SettingsUpdate]:
        """Send an encoded batch. Returns the acknowledged sequence and the desired settings."""
        path = f"/runs/{quote(run_id, safe='')}/telemetry"
        try:
            response = _decode(self._request("POST", path, batch, "application/msgpack", timeout_s), _Acknowledged)
        except RequestRejected as error:
            if error.status in _BODY_STATUSES and not isinstance(error, VersionRejected):
                raise BatchRejected(str(error), error.status) from error
            raise
        self.pace_s = min(max(response.pace_s, PACE_S), LONGEST_PACE_S)
        return response.acknowledged, self._read_update(response.desired)

    def poll(self, run_id: str, after_revision: int, wait_s: int) -> SettingsUpdate | None:
        """Wait at the server for settings newer than `after_revision`; None if there are none within `wait_s`."""
        path = f"/runs/{quote(run_id, safe='')}/settings?after_revision={after_revision}&wait={wait_s}"
        data = self._request("GET", path, None, None, wait_s + READ_TIMEOUT_S)
        if not data:
            return None
        update = self._read_update(data)
        return update if update.revision > after_revision else None

    def finish(self, run_id: str, end: RunFinish, timeout_s: float = READ_TIMEOUT_S) -> None:
        """Report that the run ended."""
        path = f"/runs/{quote(run_id, safe='')}/finish"
        self._request("POST", path, encode_json(end), "application/json", timeout_s)

    def abort(self) -> None:
        """End the request in progress, from any thread, and refuse further ones: they raise ServerUnavailable."""
        self._connections.shut_down()

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _read_update(self, data: bytes | msgspec.Raw) -> SettingsUpdate:
        try:
            return self._known.read(bytes(data))
        except MalformedMessage as error:
            raise _not_ours(error) from error

    def _request(
        self, method: str, path: str, body: bytes | None, kind: str | None, timeout_s: float, *, encoding: str = ""
    ) -> bytes:
        headers = {"User-Agent": f"steadynorm-agent/{__version__}"}
        if kind:
            headers["Content-Type"] = kind
        if encoding:
            headers["Content-Encoding"] = encoding
        if token := self._token or find_token(self._server):
            headers["Authorization"] = f"Bearer {token}"
        connect_s = min(CONNECT_TIMEOUT_S, timeout_s)
        timeout = urllib3.Timeout(connect=connect_s, read=timeout_s)
        self._connections.until = until = monotonic() + connect_s + timeout_s
        try:
            response = self._pool.request(
                method, self._root + path, body=body, headers=headers, timeout=timeout, preload_content=False
            )
            data = _body(response)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if monotonic() >= until:
                raise ServerUnavailable(f"the response did not end within {connect_s + timeout_s:.3g} s") from error
            raise ServerUnavailable(f"{type(error).__name__}: {error}") from error
        if response.status in (200, 201, 202, 204, 304):
            return data
        raise _error(response.status, data, response.headers)


class _Registered(msgspec.Struct):
    """`telemetry.Registered` with the settings undecoded: they may break a rule where the rest is valid."""

    incarnation: Count
    acknowledged: Count
    desired: msgspec.Raw
    previous_acknowledged: Count | None = None
    server_version: str = ""
    defaults: dict[str, Any] = {}
    max_scalars: int = 0
    max_knobs: int = 0


class _Acknowledged(msgspec.Struct):
    acknowledged: Count
    desired: msgspec.Raw
    pace_s: float = PACE_S


def _decode(data: bytes, kind: type[_T]) -> _T:
    try:
        return decode_json(data, kind)
    except MalformedMessage as error:
        raise _not_ours(error) from error


def _not_ours(error: MalformedMessage) -> RequestRejected:
    return RequestRejected(f"the response is not steadynorm's ({one_line(str(error))}): is this another server?")


def _body(response: urllib3.BaseHTTPResponse) -> bytes:
    """At most MAX_RESPONSE_BYTES of it: what is cut is no answer of ours."""
    parts, size = [], 0
    try:
        while size <= MAX_RESPONSE_BYTES and (part := response.read1(_READ_BYTES)):
            parts.append(part)
            size += len(part)
        if size <= MAX_RESPONSE_BYTES:
            response.release_conn()
            return b"".join(parts)
    finally:
        response.close()  # where it was read to its end, the connection is the pool's already
    return b""


def _error(status: int, data: bytes, headers: Mapping[str, str]) -> TransportError:
    try:
        problem = decode_json(data, Problem)
        message = one_line(f"{status} {problem.title}: {problem.detail}")
    except MalformedMessage:
        problem, message = None, f"it responded with status {status}"
        if 300 <= status < 400 and (there := headers.get("Location", "").partition("/api/v1/")[0]):
            message = f"{message}: it redirects to {one_line(there)}. Is that the server's address?"
    if status == 404:
        return RunNotFound(message)
    if status == 409:
        return StaleIncarnation(message)
    if status in (408, 425, 429) or status >= 500:
        return ServerUnavailable(message, _seconds(headers.get("Retry-After")))
    if problem is not None and (problem.type == UNSUPPORTED_VERSION or problem.detail.startswith("schema version")):
        return VersionRejected(message, status)  # by its text where the server is older than the type
    return RequestRejected(message, status)


def _seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, in either of its forms, as seconds from now."""
    if not retry_after:
        return None
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(retry_after).timestamp() - time()
    except (ValueError, TypeError, OverflowError):
        return None
