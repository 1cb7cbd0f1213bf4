"""Typed HTTP client for people's tools: the dashboard and the command line use it, and so can a notebook.

    client = Client()                                   # the user's own server, found in $STEADYNORM_HOME
    run = client.run("gpt-small-1f2e3d4c")
    client.change(run.run_id, {"gamma2": 0.99}, revision=run.desired.revision, reason="spikes since step 4000")

Every call may raise a ClientError: ServerUnreachable when nobody answers, else the one of the answer's status.
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
    """A request did not succeed. `problem` is what the server said, None if it said nothing."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class ServerUnreachable(ClientError):
    """Nobody answered at the server's address. `timed_out`: something is there, and takes too long."""

    def __init__(self, server: str, reason: Exception) -> None:
        self.timed_out = isinstance(reason, urllib3.exceptions.ReadTimeoutError)
        if self.timed_out:
            advice = "It hangs, or has too much to do: see its log, or try again."
        elif is_loopback(server):
            advice = "Start one with: steadynorm up"
        else:
            advice = "Is it running, and can this machine reach it?"
        super().__init__(f"no steadynorm server answers at {server} ({type(reason).__name__}). {advice}")


class Unauthorized(ClientError):
    """The server wants a token, or does not know this one (401)."""


class Forbidden(ClientError):
    """The token's role does not allow this (403)."""


class NotFound(ClientError):
    """No such run (404)."""


class Conflict(ClientError):
    """Somebody changed the settings in the meantime (412). Read them again and decide anew."""


class InvalidChange(ClientError):
    """A value breaks its rule (422). `errors` names the fields."""

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
    """Speaks to one server. Safe to share between threads.

    server: address such as http://127.0.0.1:8470; None: `$STEADYNORM_SERVER`, else the user's own.
    token: None: `$STEADYNORM_TOKEN`, else, on loopback, the user's own.
    timeout_s: of one request, connection and answer each.
    """

    def __init__(self, server: str | None = None, token: str | None = None, timeout_s: float = 10.0) -> None:
        self.server = (server or find_server().server).rstrip("/")
        self._token = token or find_token(self.server)
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout_s, read=timeout_s), retries=False, maxsize=8
        )

    def me(self) -> TokenInfo:
        """Whose token this is, and what it may do."""
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
        """Runs, newest first. name: a pattern; tag: KEY or KEY=VALUE; cursor: `next` of the page before."""
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
        """Runs with sparklines and last changes, those in trouble first. search: words in name, id or tags."""
        query = {"state": state, "health": health, "name": name, "tag": tag, "search": search or None, "limit": limit}
        return self._get("/fleet", FleetResponse, query | ({} if sort == "severity" else {"sort": sort}))

    def run(self, run_id: str) -> RunDetail:
        """One run."""
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
        """Series in at most `points` buckets each, over the steps start..stop (both inclusive; None: all)."""
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
        """One signal of all parameters, in model order, in at most `points` buckets over the steps start..stop."""
        query = {"signal": signal, "from": start, "to": stop, "points": points}
        return self._get(f"/runs/{quote(run_id, safe='')}/heatmap", Heatmap, query)

    def parameters(self, run_id: str, limit: int | None = None, cursor: str | None = None) -> ParameterList:
        """The parameter table with each one's newest numbers, in model order. cursor: `next` of the page before."""
        query = {"limit": limit, "cursor": cursor}
        return self._get(f"/runs/{quote(run_id, safe='')}/parameters", ParameterList, query)

    def events(self, run_id: str, limit: int = 200, cursor: str | None = None) -> EventList:
        """Events, newest first. cursor: `next` of the page before."""
        return self._get(f"/runs/{quote(run_id, safe='')}/events", EventList, {"limit": limit, "cursor": cursor})

    def audit(self, run_id: str, limit: int = 1000, cursor: str | None = None) -> AuditList:
        """Changes of settings, newest first. `chain.verify` tells whether they are what was written."""
        return self._get(f"/runs/{quote(run_id, safe='')}/audit", AuditList, {"limit": limit, "cursor": cursor})

    def settings(self, run_id: str) -> Desired:
        """The desired settings."""
        return self._get(f"/runs/{quote(run_id, safe='')}/settings", Desired)

    def change(self, run_id: str, settings: Mapping[str, object], *, revision: int, reason: str = "") -> Desired:
        """Change settings, provided that `revision` is still the newest. Raises Conflict or InvalidChange."""
        body = msgspec.json.encode({"settings": dict(settings), "reason": reason})
        path = f"/runs/{quote(run_id, safe='')}/settings"
        headers = {"If-Match": f'"{revision}"', "Content-Type": "application/json"}
        return _decode(self._request("PATCH", path, body=body, headers=headers), Desired)

    def change_many(self, bulk: Bulk) -> BulkResponse:
        """Preview a change of many runs, or make it: see `Bulk`. Raises InvalidChange."""
        return self._send("POST", "/settings/bulk", bulk, BulkResponse)

    def schedules(self, run_id: str) -> ScheduleList:
        """Changes that wait for a step, the next one first, then the last ones that were made."""
        return self._get(f"/runs/{quote(run_id, safe='')}/schedules", ScheduleList)

    def schedule(self, run_id: str, from_step: int, settings: Mapping[str, object], *, reason: str = "") -> Schedule:
        """Change settings once the run has reached a step. Raises InvalidChange, also if it has already."""
        new = NewSchedule(from_step=from_step, settings=dict(settings), reason=reason)
        return self._send("POST", f"/runs/{quote(run_id, safe='')}/schedules", new, Schedule)

    def unschedule(self, run_id: str, schedule_id: str) -> None:
        """Take back a schedule that waits."""
        self._request("DELETE", f"/runs/{quote(run_id, safe='')}/schedules/{quote(schedule_id, safe='')}")

    def rules(self, run_id: str) -> RuleList:
        """The run's watch rules, and where each stands."""
        return self._get(f"/runs/{quote(run_id, safe='')}/rules", RuleList)

    def set_rules(self, run_id: str, rules: Sequence[WatchRule], *, revision: int | None = None) -> RuleList:
        """Give a run these rules and no others, if `revision` is that of its list. Raises Conflict, InvalidChange."""
        return self._send("PUT", f"/runs/{quote(run_id, safe='')}/rules", RuleSet(list(rules), revision), RuleList)

    def retention(self, run_id: str) -> Retention:
        """What the run may take in the store, and how long it is kept."""
        return self._get(f"/runs/{quote(run_id, safe='')}/retention", Retention)

    def retain(self, run_id: str, wanted: RetentionUpdate) -> Retention:
        """Set both, if its `revision` is that of the run's retention. Raises Conflict, InvalidChange."""
        return self._send("PUT", f"/runs/{quote(run_id, safe='')}/retention", wanted, Retention)

    def export(self, run_id: str, file: BinaryIO, table: Literal["steps", "parameters"] = "steps") -> int:
        """Write the run's history to `file` as Parquet. Returns the bytes. After an error `file` may hold a part."""
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
            raise ClientError(f"the export of {run_id} ended early ({type(error).__name__}). Ask again.") from error
        finally:
            answer.release_conn()

    def delete(self, run_id: str) -> None:
        """Delete a run with its data."""
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
            raise ServerUnreachable(self.server, error) from error

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
        raise ClientError(f"the server's answer is not a {kind.__name__}: {error}. Are both of one version?") from error
