"""The audit is a chain: what was changed, left out or put in between shows, to anybody with an export."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from steadynorm_contract.audit import AuditEntry, AuditList, verify
from steadynorm_contract.changes import Change
from steadynorm_server.errors import ProblemError
from steadynorm_server.runs import queries
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.settings import service
from steadynorm_server.settings.service import change

AUDIT = "steadynorm:{tiny-1}:audit"


async def change_often(agent: Any, times: int) -> AuditList:
    for revision in range(times):
        answer = await agent.change(
            revision, {"gamma2": 0.9 + revision / 1000}, reason=f'"why" {revision} \u00e4\u2028'
        )
        assert answer.status_code == 200
    return msgspec.convert(await agent.get("/audit", verify=True), AuditList)


async def test_each_entry_is_chained_to_the_one_before(agent: Any) -> None:
    audit = await change_often(agent, 5)
    assert [entry.previous for entry in audit.entries] == [*(entry.hash for entry in audit.entries[1:]), ""]
    assert len({entry.hash for entry in audit.entries}) == 5
    assert all(len(entry.hash) == 64 for entry in audit.entries)
    assert audit.chain is not None
    assert (audit.chain.verified, audit.chain.head) == (True, audit.entries[0].hash)
    assert verify("tiny-1", audit.entries) == audit.chain
    # What comes of an entry later is the agent's word, and changes no hash.
    await agent.send([1], applied=[agent.applied(5, 1, gamma2=0.904)])
    assert msgspec.convert(await agent.get("/audit", verify=True), AuditList).chain == audit.chain


Tamper = Callable[[list[AuditEntry]], object]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda entries: entries.__setitem__(2, msgspec.structs.replace(entries[2], reason="another")),
        lambda entries: entries.__setitem__(2, msgspec.structs.replace(entries[2], actor="somebody")),
        lambda entries: entries.__setitem__(2, msgspec.structs.replace(entries[2], time=entries[2].time + 1e-6)),
        lambda entries: entries.__setitem__(2, msgspec.structs.replace(entries[2], after={"gamma2": 0.5})),
        lambda entries: entries.__setitem__(2, msgspec.structs.replace(entries[2], hash="")),
        lambda entries: entries.pop(2),
        lambda entries: entries.insert(2, entries[2]),
        lambda entries: entries.reverse(),
    ],
)
async def test_whoever_has_an_export_sees_that_it_was_touched(agent: Any, tamper: Tamper) -> None:
    entries = list((await change_often(agent, 5)).entries)
    assert verify("tiny-1", entries).verified
    assert not verify("tiny-2", entries).verified
    tamper(entries)
    assert not verify("tiny-1", entries).verified


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_an_entry_removed_or_rewritten_in_the_store_shows(agent: Any, store_url: str, place: int) -> None:
    await change_often(agent, 3)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        stored = client.xrange(AUDIT)
        at, _ = stored[place]
        client.xdel(AUDIT, at)
        removed = (await agent.get("/audit", verify=True))["chain"]
        assert removed["verified"] is False  # the oldest too: so short a list was never trimmed
        client.delete(AUDIT)
        for other, (_, kept) in enumerate(stored):
            entry = json.loads(kept[b"entry"])
            client.xadd(AUDIT, {"entry": json.dumps(entry | {"actor": "nobody"} if other == place else entry)})
        rewritten = (await agent.get("/audit", verify=True))["chain"]
    assert (rewritten["verified"], rewritten["broken_at"]) == (False, place + 1)


@pytest.mark.parametrize("rewritten", [1, 2, 3])
async def test_entries_that_are_stripped_of_their_hashes_are_not_those_of_an_older_version(
    agent: Any, store_url: str, rewritten: int
) -> None:
    await change_often(agent, 4)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        stored = [json.loads(kept[b"entry"]) for _, kept in client.xrange(AUDIT)]
        client.delete(AUDIT)
        for place, entry in enumerate(stored):
            forged = {**entry, "actor": "nobody", "hash": "", "previous": ""}
            client.xadd(AUDIT, {"entry": json.dumps(forged if place < rewritten else entry)})
    audit = msgspec.convert(await agent.get("/audit", verify=True), AuditList)
    assert audit.chain is not None
    assert (audit.chain.verified, audit.chain.broken_at) == (False, rewritten)
    assert not verify("tiny-1", audit.entries).verified  # nor to whoever has an export


async def test_a_capped_list_verifies_from_its_oldest_entry(agent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_AUDIT", 3)
    monkeypatch.setattr(queries, "MAX_AUDIT", 3)
    audit = await change_often(agent, 6)
    assert [entry.revision for entry in audit.entries] == [6, 5, 4]
    assert audit.entries[-1].previous != ""
    assert audit.chain is not None
    assert audit.chain.verified
    assert (await agent.get("/audit", limit=2, verify=True))["chain"]["verified"] is True


async def test_operators_who_race_do_not_fork_the_chain(agent: Any, store_url: str) -> None:
    async with RunRepository(store_url).opened() as one, RunRepository(store_url).opened() as other:

        async def win(repository: RunRepository, name: str) -> int:
            won = 0
            while won < 10:
                run = await repository.get("tiny-1")
                wanted = Change({"reset_generation": run.desired.reset_generation + 1})
                try:
                    await change(repository, run, wanted, run.desired_revision, name)
                    won += 1
                except ProblemError as error:
                    if error.status != 412:
                        raise
            return won

        assert (
            await asyncio.gather(*(win(repository, f"{at}") for at, repository in enumerate((one, other, one, other))))
            == [10] * 4
        )
        audit = await RunQueries(one).audit("tiny-1", 1000, verify_chain=True)
    assert [entry.revision for entry in audit.entries] == list(range(40, 0, -1))
    assert audit.chain is not None
    assert audit.chain.verified


async def test_of_two_equal_changes_at_one_moment_one_is_made(agent: Any, repository: RunRepository) -> None:
    repository.clock = lambda: 1e9
    run = await repository.get("tiny-1")
    wanted = Change({"reset_generation": 1})
    assert (await change(repository, run, wanted, 0, "ada")).revision == 1
    with pytest.raises(ProblemError, match="changed concurrently") as refused:
        await change(repository, run, wanted, 0, "ada")
    assert refused.value.status == 412


async def test_a_change_that_was_chained_to_an_older_entry_is_chained_anew(
    agent: Any, repository: RunRepository
) -> None:
    """As when a store came back without the newest revision, while its audit went on."""
    await change_often(agent, 2)
    run = await repository.get("tiny-1")
    run.audit_head = "of an entry that is not the newest"
    await change(repository, run, Change({"gamma1": 0.1}), 2, "late")
    audit = msgspec.convert(await agent.get("/audit", verify=True), AuditList)
    assert audit.entries[0].actor == "late"
    assert audit.chain is not None
    assert audit.chain.verified


async def test_entries_from_before_there_were_hashes_may_stand_at_the_beginning_only(
    agent: Any, store_url: str
) -> None:
    old = {"revision": 1, "time": 1.5, "actor": "a", "reason": "", "before": {"gamma1": 0.6}, "after": {"gamma1": 0.5}}
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.xadd(AUDIT, {"entry": json.dumps(old)})
        assert (await agent.get("/audit", verify=True))["chain"] == {"verified": True, "head": "", "broken_at": None}
        assert (await change_often(agent, 2)).chain is not None
        assert (await agent.get("/audit", verify=True))["chain"]["verified"] is True
        client.xadd(AUDIT, {"entry": json.dumps(old)})
    assert (await agent.get("/audit", verify=True))["chain"]["verified"] is False
