"""Typed HTTP client: for the dashboard, the command line, notebooks and scripts.

    client = Client()                                   # the user's own server, found through $STEADYNORM_HOME
    run = client.run("gpt-small-1f2e3d4c")
    client.change(run.run_id, {"gamma2": 0.99}, revision=run.desired.revision, reason="spikes since step 4000")

Every call may raise a ClientError: ServerUnreachable without a response, else the subclass of the response's status.
A write that was sent and got no definite answer raises OutcomeUnknown: it may have been made, and `settle` finds out.
"""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, Literal
from urllib.parse import quote, urlencode

import urllib3

from steadynorm_contract import outcomes
from steadynorm_contract.audit import AuditList
from steadynorm_contract.bulk import Bulk, BulkResponse
from steadynorm_contract.client_errors import (
    ClientError,
    Conflict,
    Finding,
    Forbidden,
    InvalidChange,
    NotFound,
    OutcomeUnknown,
    ServerUnreachable,
    Unauthorized,
)
from steadynorm_contract.client_transport import Transport
from steadynorm_contract.configuration import RunConfiguration
from steadynorm_contract.events import EventList
from steadynorm_contract.fleet import FleetResponse
from steadynorm_contract.lifecycle import Restoration, RunUpdate
from steadynorm_contract.notes import NewNote, Note, NoteList
from steadynorm_contract.proposals import Decision, NewProposal, Proposal, ProposalList
from steadynorm_contract.retention import Retention, RetentionUpdate
from steadynorm_contract.runs import RunDetail, RunList
from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_contract.series import Heatmap, ParameterList, SeriesResponse
from steadynorm_contract.telemetry import Desired
from steadynorm_contract.tokens import TokenInfo
from steadynorm_contract.watch_rules import RuleList, RuleSet, WatchRule

__all__ = [
    "Client",
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

_EXPORT_WITHIN_S = 300.0  # the file is made before its first byte is sent


class Client(Transport):
    """A client of one server. Safe to share between threads.

    Args:
        server: Address such as `http://127.0.0.1:8470`; None: `$STEADYNORM_SERVER`, else the user's own server.
        token: None: `$STEADYNORM_TOKEN`, else, for a server on loopback, the user's own token.
        timeout_s: Seconds to wait for the connection and, again, for each read of the response.
        headers: Sent with each request, such as the name of a person on whose behalf it is.

    Raises:
        ClientError: Every method raises it, or one of its subclasses.
    """

    def me(self) -> TokenInfo:
        """Name and roles of the token."""
        return self._get("/me", TokenInfo)

    def metrics(self) -> str:
        """What Prometheus reads, as text. Raises ClientError."""
        answer = self._open("GET", "/metrics", base="")
        if answer.status >= 400:
            raise self._error("GET", "/metrics", answer.status, answer.data)
        return answer.data.decode("utf-8", "replace")

    def runs(
        self,
        *,
        state: Sequence[str] = (),
        health: Sequence[str] = (),
        name: str | None = None,
        tag: Sequence[str] = (),
        visibility: Sequence[str] = (),
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
            visibility: Runs of any of these, see `Visibility`; none: `listed`, so neither archived nor deleted ones.
            sort: `started`, `name`, `step`, `loss`, ..., with a leading minus for the reverse order.
            limit: Most runs of one page; None: the server's default.
            cursor: `next` of the previous page.
        """
        query = {"state": state, "health": health, "name": name, "tag": tag, "limit": limit, "cursor": cursor}
        query["visibility"] = visibility
        return self._get("/runs", RunList, query | ({} if sort == "-started" else {"sort": sort}))

    def fleet(
        self,
        *,
        state: Sequence[str] = (),
        health: Sequence[str] = (),
        name: str | None = None,
        tag: Sequence[str] = (),
        visibility: Sequence[str] = (),
        current: bool = False,
        search: str = "",
        group: str = "",
        sort: str = "severity",
        limit: int = 200,
        scalars: Sequence[str] = (),
    ) -> FleetResponse:
        """Runs with sparklines and last changes, those that need attention first.

        Args:
            state: Only runs in one of these states.
            health: Only runs of one of these healths.
            name: Only runs whose name matches this shell pattern.
            tag: Only runs with all of these tags, each KEY or KEY=VALUE.
            visibility: Runs of any of these, see `Visibility`; none: `listed`, so neither archived nor deleted ones.
            current: Only runs that are live, or failed within 24 hours.
            search: Words that must occur in name, id or tags.
            group: Key of a tag: runs with the same value follow each other, see `FleetResponse.groups`.
            sort: One of `FleetSort`.
            limit: Most runs to return; the response counts all that match.
            scalars: Names of logged scalars whose newest values the rows have, at most 16.
        """
        query: dict[str, Any] = {"scalar": scalars} if scalars else {}
        query |= {"state": state, "health": health, "name": name, "tag": tag, "search": search or None, "limit": limit}
        query |= {"visibility": visibility, "group": group or None, "current": "true" if current else None}
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
            OutcomeUnknown: Without a definite answer: the change may have been made.
        """
        body = {"settings": dict(settings), "reason": reason}
        look = partial(outcomes.settings_change, self, run_id, settings, revision, reason)
        return self._send(
            "PATCH", f"/runs/{quote(run_id, safe='')}/settings", body, Desired, look, **{"If-Match": f'"{revision}"'}
        )

    def bulk_change(self, bulk: Bulk) -> BulkResponse:
        """Preview a bulk settings change, or make it: see `Bulk`. Raises InvalidChange."""
        look = None if bulk.dry_run else partial(outcomes.bulk_change, self, bulk)
        return self._send("POST", "/settings/bulk", bulk, BulkResponse, look)

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
        look = partial(outcomes.schedule_made, self, run_id, new, time.time())
        return self._send("POST", f"/runs/{quote(run_id, safe='')}/schedules", new, Schedule, look)

    def unschedule(self, run_id: str, schedule_id: str) -> None:
        """Cancel a waiting schedule."""
        path = f"/runs/{quote(run_id, safe='')}/schedules/{quote(schedule_id, safe='')}"
        self._delete(path, partial(outcomes.schedule_cancelled, self, run_id, schedule_id))

    def proposals(self, run_id: str) -> ProposalList:
        """Proposed changes: open ones first, then the latest that were decided."""
        return self._get(f"/runs/{quote(run_id, safe='')}/proposals", ProposalList)

    def propose(self, run_id: str, settings: Mapping[str, object], *, revision: int, reason: str = "") -> Proposal:
        """Propose a change of settings, for an operator to decide on. It is made at once where the token's budget fits.

        Args:
            run_id: The run.
            settings: Only what changes, by name; counters as increments such as "+1".
            revision: The desired revision that the change is based on.
            reason: For whoever decides, and for the audit list.

        Raises:
            Conflict: `revision` is not the newest one.
            InvalidChange: A value is invalid.
        """
        new = NewProposal(settings=dict(settings), reason=reason, revision=revision)
        look = partial(outcomes.proposal_made, self, run_id, new, time.time())
        return self._send("POST", f"/runs/{quote(run_id, safe='')}/proposals", new, Proposal, look)

    def decide(self, run_id: str, proposal_id: str, *, approve: bool, revision: int, reason: str = "") -> Proposal:
        """Approve or refuse an open proposal. revision: the desired one that the decision is based on.

        Raises:
            Conflict: The settings were changed since it was proposed.
            NotFound: There is no such proposal.
        """
        path = f"/runs/{quote(run_id, safe='')}/proposals/{quote(proposal_id, safe='')}"
        look = partial(outcomes.proposal_decided, self, run_id, proposal_id, approve=approve)
        body = Decision(approve, reason)
        return self._send("POST", path, body, Proposal, look, **{"If-Match": f'"{revision}"'})

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
        look = partial(outcomes.rules_change, self, run_id, rules, revision)
        body = RuleSet(list(rules), revision)
        return self._send("PUT", f"/runs/{quote(run_id, safe='')}/rules", body, RuleList, look)

    def configuration(self, run_id: str) -> RunConfiguration:
        """What the run was started with: the user's configuration, and facts that its process found by itself."""
        return self._get(f"/runs/{quote(run_id, safe='')}/configuration", RunConfiguration)

    def retention(self, run_id: str) -> Retention:
        """How much of Redis the run may use, and how long it is stored."""
        return self._get(f"/runs/{quote(run_id, safe='')}/retention", Retention)

    def set_retention(self, run_id: str, update: RetentionUpdate) -> Retention:
        """Set both limits. Raises Conflict where `update.revision` is not the newest one, InvalidChange."""
        look = partial(outcomes.retention_change, self, run_id, update)
        return self._send("PUT", f"/runs/{quote(run_id, safe='')}/retention", update, Retention, look)

    def export(self, run_id: str, file: BinaryIO, table: Literal["steps", "parameters", "scalars"] = "steps") -> int:
        """Write the run's history to a file, as Parquet.

        Args:
            run_id: The run.
            file: Opened for writing bytes. After an error it may hold a part.
            table: `steps`: scalars of every step; `parameters`: the rows of every parameter; `scalars`: what the
                loop logs under names of its own.

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

    def notes(self, run_id: str, limit: int = 200, cursor: str | None = None) -> NoteList:
        """Notes, newest first, and the incidents that somebody took. cursor: `next` of the previous page."""
        return self._get(f"/runs/{quote(run_id, safe='')}/notes", NoteList, {"limit": limit, "cursor": cursor})

    def add_note(self, run_id: str, note: NewNote) -> Note:
        """Write a note, or take, hand over or close an incident: see `NewNote`. Raises InvalidChange."""
        look = partial(outcomes.note_added, self, run_id, note, time.time())
        return self._send("POST", f"/runs/{quote(run_id, safe='')}/notes", note, Note, look)

    def update(self, run_id: str, update: RunUpdate) -> RunDetail:
        """Rename a run, archive it, or list it again. Raises InvalidChange; ClientError for archiving a live run."""
        look = partial(outcomes.run_update, self, run_id, update)
        return self._send("PATCH", f"/runs/{quote(run_id, safe='')}", update, RunDetail, look)

    def delete(self, run_id: str, *, grace_s: float = 0.0, reason: str = "") -> None:
        """Delete a run and its data.

        Args:
            run_id: The run.
            grace_s: Seconds within which `restore` brings it back; 0: it is removed at once.
            reason: For the audit list; without effect on a removal at once.

        Raises:
            ClientError: With `grace_s`, of a run that is live: stop it first.
        """
        query = f"?{urlencode({'grace': grace_s, 'reason': reason})}" if grace_s else ""
        look = partial(outcomes.deletion, self, run_id, at_once=not grace_s)
        self._delete(f"/runs/{quote(run_id, safe='')}{query}", look)

    def restore(self, run_id: str, *, reason: str = "") -> RunDetail:
        """Bring back a run that was deleted with `grace_s`. Raises NotFound once it is removed."""
        look = partial(outcomes.restoration, self, run_id)
        body = Restoration(reason=reason)
        return self._send("POST", f"/runs/{quote(run_id, safe='')}/restore", body, RunDetail, look)
