"""A write whose answer was lost: the client does not claim that nothing happened, and finds out what did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.dashboard import OPERATOR, ScriptedRun, local_stack
from tests.support.proxy import Proxy

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract import outcomes
from steadynorm_contract.bulk import Bulk, BulkOutcome, Selection
from steadynorm_contract.client import Client, OutcomeUnknown
from steadynorm_contract.lifecycle import RunUpdate
from steadynorm_contract.notes import NewNote
from steadynorm_contract.proposals import NewProposal, Proposal, ProposalList, ProposalState
from steadynorm_contract.retention import Retention, RetentionChange, RetentionLimits, RetentionUpdate
from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_contract.tokens import TokenInfo
from steadynorm_contract.watch_rules import WatchRule, parse_condition

RULE = WatchRule(id="save", when=parse_condition("spikes > 0"), settings={"checkpoint_generation": "+1"})


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A server in processes of its own."""
    home: Path = tmp_path_factory.mktemp("stack")
    with local_stack(home, dashboard=False) as running:
        yield running


@pytest.fixture
def proxy(own_server: LocalStack) -> Iterator[Proxy]:
    """What stands between client and server."""
    with Proxy(own_server.server) as between:
        yield between


@pytest.fixture
def client(proxy: Proxy) -> Client:
    """A client that reaches the server through the proxy."""
    return Client(proxy.server, OPERATOR, timeout_s=1.0)


@pytest.mark.parametrize("fate", ["hold", "cut", "bad gateway"])
def test_a_change_whose_answer_is_lost_is_found_once_the_server_answers(
    own_server: LocalStack, proxy: Proxy, client: Client, fate: Any
) -> None:
    run = ScriptedRun(own_server, f"answer lost by {fate}")
    proxy.writes = fate
    with pytest.raises(OutcomeUnknown, match="may have been carried out") as unknown:
        client.change(run.run_id, {"gamma2": 0.99, "mode": "observe"}, revision=0, reason="spikes")
    assert "nothing was changed" not in str(unknown.value).lower()
    own_server.client().change(run.run_id, {"gamma2": 0.9}, revision=1, reason="somebody, later")
    found = unknown.value.settle()
    assert found is not None
    assert (found.made, found.text) == (True, "your change was made as r1")
    assert (found.result.revision, found.result.settings.gamma2, found.result.settings.mode) == (1, 0.99, "observe")


def test_an_audit_list_that_does_not_reach_back_leaves_the_outcome_unknown(
    own_server: LocalStack, proxy: Proxy, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ScriptedRun(own_server, "audit list cut")
    proxy.writes = "cut"
    with pytest.raises(OutcomeUnknown) as unknown:
        client.change(run.run_id, {"gamma2": 0.99}, revision=0)
    whole = client.audit
    monkeypatch.setattr(client, "audit", lambda run_id: msgspec.structs.replace(whole(run_id), entries=[]))
    assert unknown.value.settle(0.5) is None
    monkeypatch.undo()
    found = unknown.value.settle()
    assert found is not None
    assert found.made


def test_a_request_that_was_lost_is_told_as_not_made_and_can_be_repeated(
    own_server: LocalStack, proxy: Proxy, client: Client
) -> None:
    run = ScriptedRun(own_server, "request lost")
    proxy.writes = "lose"
    with pytest.raises(OutcomeUnknown) as unknown:
        client.change(run.run_id, {"gamma2": 0.99}, revision=0)
    found = unknown.value.settle()
    assert found is not None
    assert (found.made, found.final) == (False, False)
    assert found.text == f"your change was not made: {run.run_id} is still at r0"
    own_server.client().change(run.run_id, {"gamma2": 0.9}, revision=0, reason="somebody")
    found = unknown.value.settle()
    assert found is not None
    assert (found.made, found.final) == (False, True)
    assert found.text == "your change was not made: operator changed the settings first, as r1"
    proxy.writes = "pass"
    assert client.change(run.run_id, {"gamma2": 0.99}, revision=1).revision == 2


def test_every_other_write_is_found_too(own_server: LocalStack, proxy: Proxy, client: Client) -> None:
    run = ScriptedRun(own_server, "every write", tags={"of": "every write"}).run_id
    proxy.writes = "cut"

    def found(write: Any) -> Any:
        with pytest.raises(OutcomeUnknown, match="may have been carried out") as unknown:
            write()
        deadline = time.monotonic() + 30
        while True:  # the server may still be at it
            seen = unknown.value.settle()
            assert seen is not None
            if seen.made or seen.final or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        assert seen.made, seen.text
        return seen.result

    made = found(lambda: client.schedule(run, 10_000, {"gamma2": 0.9, "reset_generation": "+1"}, reason="later"))
    assert isinstance(made, Schedule)
    found(lambda: client.unschedule(run, made.id))
    assert client.schedules(run).schedules == []
    proposed = found(lambda: client.propose(run, {"gamma2": 0.9}, revision=0, reason="tried"))
    assert found(lambda: client.decide(run, proposed.id, approve=False, revision=0)).decided_by == "operator"
    assert found(lambda: client.set_rules(run, [RULE], revision=0)).rules[0].rule == RULE
    assert found(lambda: client.set_retention(run, RetentionUpdate(keep_days=3.0, revision=0))).own.keep_days == 3.0
    assert found(lambda: client.add_note(run, NewNote(text=" new data "))).text == "new data"
    bulk = Bulk(select=Selection(tags={"of": "every write"}), settings={"reset_generation": "+1"}, reason="all")
    preview = own_server.client().bulk_change(bulk)
    sent = Bulk(bulk.settings, bulk.reason, select=bulk.select, dry_run=False, revisions=preview.revisions)
    rows = found(lambda: client.bulk_change(sent)).runs
    assert [(row.run_id, row.outcome, row.revision) for row in rows] == [(run, BulkOutcome.CHANGED, 1)]
    ended = ScriptedRun(own_server, "deleted")
    ended.finish()
    for update in (RunUpdate(name="shown", archived=True), RunUpdate(archived=False)):
        shown = found(partial(client.update, ended.run_id, update))
        assert (shown.name, shown.archived is not None) == ("shown", bool(update.archived))
    found(lambda: client.delete(ended.run_id, grace_s=600, reason="a typo"))
    assert found(lambda: client.restore(ended.run_id)).deletes_at is None
    found(lambda: client.delete(ended.run_id))


class OneRun:
    """A reader of a run with what somebody else wrote, which is what the sender wanted too."""

    def __init__(self, writer: str, at: float, state: ProposalState = ProposalState.OPEN) -> None:
        self._writer, self._at, self._state = writer, at, state

    def me(self) -> TokenInfo:
        return TokenInfo("ada", ["operator"], None)

    def schedules(self, _: str) -> ScheduleList:
        return ScheduleList(
            [Schedule(id="s", created_by=self._writer, created_at=self._at, **msgspec.structs.asdict(LATER))]
        )

    def retention(self, _: str) -> Retention:
        """16 MiB were set once, then 32; at revision 3 somebody set 8."""
        limits = [RetentionLimits(each) for each in (None, 16.0, 32.0, 8.0)]
        changes = [
            RetentionChange(SENT, who, "", before, after)
            for who, before, after in zip(("ada", "ada", self._writer), limits, limits[1:], strict=False)
        ]
        return Retention(
            revision=3, own=limits[-1], effective=limits[-1], ceiling_mib=64.0, redis_bytes=0, expires=None,
            changes=changes[::-1],
        )  # fmt: skip

    def proposals(self, _: str) -> ProposalList:
        fields = msgspec.structs.asdict(PROPOSED)
        made = Proposal(
            id="p", proposed_by=self._writer, proposed_at=self._at, state=self._state, decided_by=self._writer, **fields
        )
        return ProposalList([made], 0)


LATER = NewSchedule(from_step=7, settings={"rollback_generation": "+1"})
PROPOSED = NewProposal(settings={"rollback_generation": "+1"}, revision=0)
SENT = 1_700_000_000.0


@pytest.mark.parametrize(("writer", "at", "made"), [("ada", SENT, True), ("bob", SENT, False), ("ada", 1.0, False)])
def test_what_another_wrote_or_the_sender_long_ago_is_not_the_write(writer: str, at: float, made: bool) -> None:
    reader: Any = OneRun(writer, at)
    assert outcomes.schedule_made(reader, "run", LATER, SENT).made is made
    assert outcomes.proposal_made(reader, "run", PROPOSED, SENT).made is made


@pytest.mark.parametrize(
    ("mib", "revision", "made"), [(16.0, 2, False), (16.0, 0, True), (32.0, 1, True), (8.0, 2, True)]
)
def test_limits_that_were_set_earlier_are_not_those_that_were_sent(mib: float, revision: int, made: bool) -> None:
    reader: Any = OneRun("bob", SENT)
    found = outcomes.retention_change(reader, "run", RetentionUpdate(max_mib=mib, revision=revision))
    assert (found.made, found.final) == (made, True)


@pytest.mark.parametrize(
    ("who", "state", "made"),
    [
        ("ada", ProposalState.APPROVED, True),
        ("bob", ProposalState.APPROVED, False),
        ("bob", ProposalState.REFUSED, False),
    ],
)
def test_a_decision_of_another_is_not_the_senders(who: str, state: ProposalState, made: bool) -> None:
    reader: Any = OneRun(who, SENT, state)
    found = outcomes.proposal_decided(reader, "run", "p", approve=True)
    assert (found.made, found.final) == (made, True)
    assert f"proposal p is {state}, by {who}" in found.text
