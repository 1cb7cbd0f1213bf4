"""A store that lost changes: what schedules and rules may have done already is not done a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from tests.support.server import all_runs, applied, as_if_restarted, registration

from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import RevisionOutcome
from steadynorm_server.auth.principals import Principal
from steadynorm_server.runs.events import MAX_AUDIT
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry.registration import register


@pytest.fixture
def put_back(store_url: str) -> Callable[[], Any]:
    """Makes a block during which the run's store moves on, and after which it is as before."""

    @contextmanager
    def block() -> Iterator[None]:
        with redis.Redis.from_url(store_url, protocol=2) as client:
            copy = {key: client.dump(key) for key in client.keys("steadynorm:{tiny-1}:*")}
            yield
            client.delete(*client.keys("steadynorm:{tiny-1}:*"))
            for key, value in copy.items():
                client.restore(key, 0, value)
        as_if_restarted(store_url)

    return block


async def _register(agent: Any, revision: int, step: int, **settings: Any) -> dict[str, Any]:
    agent.registration = registration(applied_revision=revision, step=step, settings=Settings(**settings))
    answer: dict[str, Any] = await agent.register()
    return answer


async def test_a_schedule_that_may_have_been_made_is_not_made_over_what_an_operator_did_after_it(
    agent: Any, put_back: Callable[[], Any]
) -> None:
    await agent.send([1])
    for step in (10, 20):
        made = await agent.client.post(f"{agent.run}/schedules", json={"from_step": step, "settings": {"gamma2": 0.9}})
        assert made.status_code == 201, made.text
    with put_back():
        assert (await agent.send([10]))["desired"]["revision"] == 1
        await agent.change(1, {"gamma2": 0.5})
        await agent.send([12], applied=[applied(2, 12, gamma2=0.5)])
    await _register(agent, 2, 12, gamma2=0.5)
    desired = (await agent.send([13]))["desired"]
    assert (desired["revision"], desired["settings"]["gamma2"]) == (2, 0.5)
    first = next(each for each in (await agent.get("/schedules"))["schedules"] if each["from_step"] == 10)
    assert (first["state"], first["revision"]) == ("failed", None)
    assert "Redis was restored" in first["why"]
    desired = (await agent.send([20]))["desired"]  # what lies ahead is made
    assert (desired["revision"], desired["settings"]["gamma2"]) == (3, 0.9)


async def test_a_rule_whose_budget_nobody_knows_any_more_rests_until_it_is_given_anew(
    agent: Any, put_back: Callable[[], Any], clock: Any
) -> None:
    await agent.send([1])
    rule = {
        "id": "reset", "when": {"scalar": "spikes", "comparison": ">", "value": 0, "times": 1},
        "settings": {"reset_generation": "+1"}, "max_actions": 1,
    }  # fmt: skip
    given = await agent.client.put(f"{agent.run}/rules", json={"revision": 0, "rules": [rule]})
    assert given.status_code == 200, given.text
    with put_back():
        assert (await agent.send([2], spikes=1))["desired"]["settings"]["reset_generation"] == 1
        await agent.send([3], applied=[applied(1, 3, reset_generation=1)])
    clock.now += 1
    await _register(agent, 1, 3, reset_generation=1)
    assert (await agent.send([4], spikes=1))["desired"]["revision"] == 1
    (shown,) = (await agent.get("/rules"))["rules"]
    assert shown["stopped"]
    clock.now += 1
    rest = {**rule, "id": "rest"}  # who adds another rule sends this one too, and does not mean it
    for rules, are_stopped in (
        ([rule, rest], [True, False]),
        ([rest], [False]),
        ([rest, rule], [False, False]),
        ([{**rule, "max_actions": 2}], [False]),
    ):
        again = await agent.client.put(f"{agent.run}/rules", json={"rules": rules})
        assert again.status_code == 200, again.text
        assert [each["stopped"] for each in again.json()["rules"]] == are_stopped
    assert (await agent.send([5], spikes=1))["desired"]["settings"]["reset_generation"] == 2


async def test_an_agents_word_is_kept_on_so_many_revisions_as_the_audit_has(agent: Any, store_url: str) -> None:
    for first in range(1, 11_501, 500):
        reports = [applied(revision, 1, outcome=RevisionOutcome.REJECTED) for revision in range(first, first + 500)]
        await agent.send([first], applied=reports)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        kept = sorted(map(int, client.hkeys("steadynorm:{tiny-1}:outcomes")))
    assert len(kept) <= 1.05 * MAX_AUDIT
    assert kept == list(range(11_501 - len(kept), 11_501))


async def test_a_run_that_comes_back_while_its_absence_is_noted_stays_in_the_list(
    repository: RunRepository, anyone: Principal, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(repository, registration(), anyone)
    remove = repository.redis.remove_from_index
    with redis.Redis.from_url(store_url, protocol=2) as client:
        copy = client.dump("steadynorm:{tiny-1}:run")
        client.delete("steadynorm:{tiny-1}:run")

        async def late(key: str, *members: str) -> None:
            client.restore("steadynorm:{tiny-1}:run", 0, copy)  # its agent was faster
            await remove(key, *members)

        monkeypatch.setattr(repository.redis, "remove_from_index", late)
        await repository.remove_lost(["tiny-1"])
    assert [run.run_id for run in await all_runs(repository)] == ["tiny-1"]
