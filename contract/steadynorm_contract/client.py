"""Typed HTTP client: for the dashboard, the command line, notebooks and scripts.

    client = Client()                                   # the user's own server, found through $STEADYNORM_HOME
    run = client.run("gpt-small-1f2e3d4c")
    client.change(run.run_id, {"gamma2": 0.99}, revision=run.desired.revision, reason="spikes since step 4000")

Every call may raise a ClientError: ServerUnreachable without a response, else the subclass of the response's status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec
import urllib3

from steadynorm_contract.audit import AuditList
from steadynorm_contract.bulk import Bulk, BulkResponse
from steadynorm_contract.discovery import find_server, find_token, is_loopback
from steadynorm_contract.events import EventList
from steadynorm_contract.fleet import FleetResponse
from steadynorm_contract.problems import Problem
from steadynorm_contract.retention import Retention, RetentionUpdate
from steadynorm_contract.runs import RunDetail, RunList
from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_contract.series import Heatmap, ParameterList, SeriesResponse
from steadynorm_contract.settings import FieldError
from steadynorm_contract.telemetry import Desired
from steadynorm_contract.tokens import TokenInfo
from steadynorm_contract.watch_rules import RuleList, RuleSet, WatchRule

__all__ = [
    "Client",
    "ClientError",
    "Conflict",
    "Forbidden",
    "InvalidChange",
    "NotFound",
    "ServerUnreachable",
    "Unauthorized",
]

_T = TypeVar("_T")
_EXPORT_WITHIN_S = 300.0  # the file is made before its first byte is sent


class ClientError(Exception):
    """A request failed. `problem` is the server's problem JSON; None if it sent none."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class ServerUnreachable(ClientError):
    """There was no complete response.

    Attributes:
        timed_out: The connection was made, and no response came in time.
        outcome_unknown: The request may have been carried out: it was sent, and it was not a GET.
    """

    def __init__(self, server: str, reason: Exception, method: str = "GET") -> None:
        unsent = (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.NewConnectionError)
        self.timed_out = isinstance(reason, urllib3.exceptions.ReadTimeoutError)
        self.outcome_unknown = method != "GET" and not isinstance(reason, unsent)
        if self.outcome_unknown:
            advice = "The request may have been carried out: check the present state before you repeat it."
        elif self.timed_out:
            advice = "It is overloaded or hangs: see its log, or try again."
        elif is_loopback(server):
            advice = "Start one with: steadynorm up"
        else:
            advice = "Is it running, and can this machine reach it?"
        super().__init__(f"no steadynorm server answers at {server} ({type(reason).__name__}). {advice}")


class Unauthorized(ClientError):
    """The token is missing or unknown to the server (401)."""


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


_BY_STATUS: dict[int, type[ClientError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    412: Conflict,
    422: InvalidChange,
}


class Client:
    """A client of one server. Safe to share between threads.

    Args:
        server: Address such as `http://127.0.0.1:8470`; None: `$STEADYNORM_SERVER`, else the user's own server.
        token: None: `$STEADYNORM_TOKEN`, else, for a server on loopback, the user's own token.
        timeout_s: Seconds to wait for the connection and, again, for each read of the response.

    Raises:
        ClientError: Every method raises it, or one of its subclasses.
    """

    def __init__(self, server: str | None = None, token: str | None = None, timeout_s: float = 10.0) -> None:
        self.server = (server or find_server().server).rstrip("/")
        self._token = token or find_token(self.server)
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s), retries=False, maxsize=8
        )

    def me(self) -> TokenInfo:
        """Name and roles of the token."""
        return self._get("/me", TokenInfo)

    def runs(
        self,
        *,
        state: Sequence[str] = (),
        health: Sequence[str] = (),
        name: str | None = None,
        tag: Sequence[str] = (),
        sort: str = "-started",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> RunList:
        """Runs, newest first.

        Args:
            state: Only runs in one of these states, see `RunState`.
            health: Only runs of one of these healths, see `Health`.
            name: Only runs whose name matches this shell pattern, such as `gpt-*`.
            tag: Only runs with all of these tags, each KEY or KEY=VALUE.
            sort: `started`, `name`, `step`, `loss`, ..., with a leading minus for the reverse order.
            limit: Most runs of one page; None: the server's default.
            cursor: `next` of the previous page.
        """
        query = {"state": state, "health": health, "name": name, "tag": tag, "limit": limit, "cursor": cursor}
        return self._get("/runs", RunList, query | ({} if sort == "-started" else {"sort": sort}))

    def fleet(
        self,
        *,
        state: Sequence[str] = (),
        health: Sequence[str] = (),
        name: str | None = None,
        tag: Sequence[str] = (),
        search: str = "",
        sort: str = "severity",
        limit: int = 200,
    ) -> FleetResponse:
        """Runs with sparklines and last changes, those that need attention first.

        Args:
            state: Only runs in one of these states.
            health: Only runs of one of these healths.
            name: Only runs whose name matches this shell pattern.
            tag: Only runs with all of these tags, each KEY or KEY=VALUE.
            search: Words that must occur in name, id or tags.
            sort: One of `FleetSort`.
            limit: Most runs to return; the response counts all that match.
        """
        query = {"state": state, "health": health, "name": name, "tag": tag, "search": search or None, "limit": limit}
        return self._get("/fleet", FleetResponse, query | ({} if sort == "severity" else {"sort": sort}))

    def run(self, run_id: str) -> RunDetail:
        """One run. Raises NotFound."""
        return self._get(f"/runs/{quote(run_id, safe='')}", RunDetail)

    def series(
        self,
        run_id: str,
        names: Sequence[str],
        *,
        start: int | None = None,
        stop: int | None = None,
        points: int = 1000,
    ) -> SeriesResponse:
        """Series in buckets of consecutive steps, with minimum, mean and maximum of each bucket.

        Args:
            run_id: The run.
            names: Scalars such as `loss`, or COLUMN/PARAMETER such as `raw_norm/blocks.0.weight`; see `signals`.
            start: First optimizer step; None: the first recorded one.
            stop: Last optimizer step, inclusive; None: the newest one.
            points: Most buckets of each series.
        """
        query = {"name": list(names), "from": start, "to": stop, "points": points}
        return self._get(f"/runs/{quote(run_id, safe='')}/series", SeriesResponse, query)

    def heatmap(
        self,
        run_id: str,
        signal: str = "spike_ratio",
        *,
        start: int | None = None,
        stop: int | None = None,
        points: int = 120,
    ) -> Heatmap:
        """One signal of all parameters, in model order, in buckets of consecutive steps.

        Args:
            run_id: The run.
            signal: One of `HEATMAP_SIGNALS`.
            start: First optimizer step; None: the first recorded one.
            stop: Last optimizer step, inclusive; None: the newest one.
            points: Most buckets.
        """
        query = {"signal": signal, "from": start, "to": stop, "points": points}
        return self._get(f"/runs/{quote(run_id, safe='')}/heatmap", Heatmap, query)

    def parameters(self, run_id: str, limit: int | None = None, cursor: str | None = None) -> ParameterList:
        """The parameters with their newest values, in model order. cursor: `next` of the previous page."""
        query = {"limit": limit, "cursor": cursor}
        return self._get(f"/runs/{quote(run_id, safe='')}/parameters", ParameterList, query)

    def events(self, run_id: str, limit: int = 200, cursor: str | None = None) -> EventList:
        """Events, newest first. cursor: `next` of the previous page."""
        return self._get(f"/runs/{quote(run_id, safe='')}/events", EventList, {"limit": limit, "cursor": cursor})

    def audit(self, run_id: str, limit: int = 1000, cursor: str | None = None, *, verify: bool = False) -> AuditList:
        """Changes of settings, newest first. cursor: `next` of the previous page.

        verify: the server recomputes the hashes of all entries, see `AuditList.chain`; `audit.verify` does it locally.
        """
        query = {"limit": limit, "cursor": cursor, "verify": "true" if verify else None}
        return self._get(f"/runs/{quote(run_id, safe='')}/audit", AuditList, query)

    def settings(self, run_id: str) -> Desired:
        """The desired settings."""
        return self._get(f"/runs/{quote(run_id, safe='')}/settings", Desired)

    def change(self, run_id: str, settings: Mapping[str, object], *, revision: int, reason: str = "") -> Desired:
        """Change settings, on condition that they were not changed since.

        Args:
            run_id: The run.
            settings: Only what changes, by name.
            revision: The desired revision that the change is based on.
            reason: For the audit list.

        Returns:
            The new desired settings and their revision.

        Raises:
            Conflict: `revision` is not the newest one.
            InvalidChange: A value is invalid.
            ServerUnreachable: Without a response, the change may have been made: see `outcome_unknown`.
        """
        body = msgspec.json.encode({"settings": dict(settings), "reason": reason})
        path = f"/runs/{quote(run_id, safe='')}/settings"
        headers = {"If-Match": f'"{revision}"', "Content-Type": "application/json"}
        return _decode(self._request("PATCH", path, body=body, headers=headers), Desired)

    def bulk_change(self, bulk: Bulk) -> BulkResponse:
        """Preview a bulk settings change, or make it: see `Bulk`. Raises InvalidChange."""
        return self._send("POST", "/settings/bulk", bulk, BulkResponse)

    def schedules(self, run_id: str) -> ScheduleList:
        """Scheduled changes: waiting ones first, the next one on top, then the latest finished ones."""
        return self._get(f"/runs/{quote(run_id, safe='')}/schedules", ScheduleList)

    def schedule(self, run_id: str, from_step: int, settings: Mapping[str, object], *, reason: str = "") -> Schedule:
        """Change settings once the run reaches a step.

        Args:
            run_id: The run.
            from_step: Optimizer step, above the run's present one.
            settings: Only what changes, by name; counters as increments such as "+1".
            reason: For the audit list.

        Raises:
            InvalidChange: A value is invalid, or the run has reached the step already.
        """
        new = NewSchedule(from_step=from_step, settings=dict(settings), reason=reason)
        return self._send("POST", f"/runs/{quote(run_id, safe='')}/schedules", new, Schedule)

    def unschedule(self, run_id: str, schedule_id: str) -> None:
        """Cancel a waiting schedule."""
        self._request("DELETE", f"/runs/{quote(run_id, safe='')}/schedules/{quote(schedule_id, safe='')}")

    def rules(self, run_id: str) -> RuleList:
        """The run's watch rules and their progress."""
        return self._get(f"/runs/{quote(run_id, safe='')}/rules", RuleList)

    def set_rules(self, run_id: str, rules: Sequence[WatchRule], *, revision: int | None = None) -> RuleList:
        """Replace all rules of a run.

        Args:
            run_id: The run.
            rules: All its rules from now on.
            revision: Of the list that they are based on; None: unconditional.

        Raises:
            Conflict: `revision` is not the newest one.
            InvalidChange: A rule is invalid.
        """
        return self._send("PUT", f"/runs/{quote(run_id, safe='')}/rules", RuleSet(list(rules), revision), RuleList)

    def retention(self, run_id: str) -> Retention:
        """How much of Redis the run may use, and how long it is stored."""
        return self._get(f"/runs/{quote(run_id, safe='')}/retention", Retention)

    def set_retention(self, run_id: str, update: RetentionUpdate) -> Retention:
        """Set both limits. Raises Conflict where `update.revision` is not the newest one, InvalidChange."""
        return self._send("PUT", f"/runs/{quote(run_id, safe='')}/retention", update, Retention)

    def export(self, run_id: str, file: BinaryIO, table: Literal["steps", "parameters"] = "steps") -> int:
        """Write the run's history to a file, as Parquet.

        Args:
            run_id: The run.
            file: Opened for writing bytes. After an error it may hold a part.
            table: `steps`: scalars of every step; `parameters`: the rows of every parameter.

        Returns:
            The number of bytes written.
        """
        path = f"/runs/{quote(run_id, safe='')}/export?table={table}"
        answer = self._open("GET", path, preload_content=False, timeout=urllib3.Timeout(10.0, read=_EXPORT_WITHIN_S))
        try:
            if answer.status >= 400:
                raise self._error("GET", path, answer.status, answer.read())
            size = 0
            for chunk in answer.stream(2**18, decode_content=False):
                size += file.write(chunk)
            return size
        except urllib3.exceptions.HTTPError as error:
            raise ClientError(f"the export of {run_id} was cut off ({type(error).__name__}). Try again.") from error
        finally:
            answer.release_conn()

    def delete(self, run_id: str) -> None:
        """Delete a run and its data."""
        self._request("DELETE", f"/runs/{quote(run_id, safe='')}")

    def _send(self, method: str, path: str, body: object, kind: type[_T]) -> _T:
        headers = {"Content-Type": "application/json"}
        return _decode(self._request(method, path, body=msgspec.json.encode(body), headers=headers), kind)

    def _get(self, path: str, kind: type[_T], query: Mapping[str, object] | None = None) -> _T:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        return _decode(self._request("GET", path + (f"?{urlencode(given, doseq=True)}" if given else "")), kind)

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        answer = self._open(method, path, body=body, headers=headers)
        if answer.status < 400:
            return answer.data
        raise self._error(method, path, answer.status, answer.data)

    def _open(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        sent = dict(headers or {})
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            return self._pool.request(method, f"{self.server}/api/v1{path}", headers=sent, **options)
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnreachable(self.server, error, method) from error

    def _error(self, method: str, path: str, status: int, data: bytes) -> ClientError:
        try:
            problem = msgspec.json.decode(data, type=Problem)
        except msgspec.MsgspecError:
            return ClientError(f"{self.server} answered {status} to {method} {path}.")
        return _BY_STATUS.get(status, ClientError)(problem.detail, problem)


def _decode(data: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ClientError(
            f"the response is not a {kind.__name__}: {error}. Are client and server of the same version?"
        ) from error
