"""Watch rules: they count steps, act within their budget and their locks, once, and are audited like an operator."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from steadynorm_contract.codec import encode_json
from steadynorm_contract.watch_rules import MAX_RULES, WatchRule, parse_condition
from steadynorm_server.automation import execution

RUN = "steadynorm:{tiny-1}:run"


def rule(condition: str, settings: Any = None, **more: Any) -> WatchRule:
    """A rule named low, which resets the statistics unless told otherwise."""
    return WatchRule(
        **{"id": "low", "when": parse_condition(condition), "settings": settings or {"reset_generation": "+1"}, **more}
    )


async def give(agent: Any, *rules: Any, **more: Any) -> httpx.Response:
    """PUT rules."""
    answer: httpx.Response = await agent.client.put(
        f"{agent.run}/rules", content=encode_json({"rules": list(rules), **more})
    )
    return answer


async def state(agent: Any, at: int = 0) -> dict[str, Any]:
    """One rule, as listed."""
    found: dict[str, Any] = (await agent.get("/rules"))["rules"][at]
    return found


async def resets(agent: Any) -> int:
    """How often the statistics were reset."""
    found: int = (await agent.get("/settings"))["settings"]["reset_generation"]
    return found


async def test_a_low_target_for_so_many_steps_resets_the_statistics_and_says_so(agent: Any) -> None:
    given = await give(agent, rule("target_min < 0.3 for 200 steps", reason="held back", max_actions=2))
    assert given.status_code == 200, given.text
    assert given.json()["revision"] == 1
    await agent.send(range(1, 151), target_min=0.2)
    shown = await state(agent)
    assert (shown["count"], shown["needed"], shown["actions"], shown["actions_left"]) == (150, 200, 0, 2)
    assert shown["condition"] == "target_min < 0.3 for 200 steps"
    answer = await agent.send(range(151, 221), target_min=0.2)
    assert (answer["desired"]["revision"], answer["desired"]["settings"]["reset_generation"]) == (1, 1)
    (entry,) = (await agent.get("/audit"))["entries"]
    assert entry["actor"] == "rule:low by local"
    assert entry["reason"] == "target_min < 0.3 for 200 steps: held back"
    assert (await agent.get("/audit", verify=True))["chain"]["verified"] is True
    shown = await state(agent)
    assert (shown["count"], shown["actions"], shown["actions_left"]) == (0, 1, 1)
    assert (shown["last_step"], shown["last_revision"], shown["cooldown_until_step"]) == (200, 1, 300)
    acted = [event for event in await agent.events() if event["kind"] == "automation"]
    assert [(event["step"], event["value"]) for event in acted] == [(200, 1)]
    assert acted[0]["message"] == ("rule low, target_min < 0.3 for 200 steps: set reset_generation 1, as revision 1.")


async def test_three_nonfinite_steps_pause_the_run_whatever_lies_between_them(agent: Any) -> None:
    await give(agent, rule("nonfinite > 0, 3 times", {"paused": True}))
    await agent.send([1, 2, 3], nonfinite=[1, 0, 0])
    await agent.send(range(4, 40), nonfinite=[0, 2] + [0] * 34)
    assert (await agent.get("/settings"))["settings"]["paused"] is False
    assert (await agent.send([40], nonfinite=5))["desired"]["settings"]["paused"] is True


@pytest.mark.parametrize(("condition", "acts"), [("loss > 9 for 4 steps", True), ("loss > 9 for 5 steps", False)])
async def test_a_nan_neither_counts_nor_interrupts(agent: Any, condition: str, acts: bool) -> None:
    await give(agent, rule(condition))
    await agent.send(range(1, 7), loss=[10, math.nan, 10, math.nan, 10, 10])
    await agent.send([7], loss=1)  # what interrupts is a number that does not hold
    await agent.send([8], loss=10)
    assert await resets(agent) == acts


async def test_a_value_is_compared_as_the_scalars_are_stored(agent: Any) -> None:
    for step, (condition, value, acts) in enumerate(
        [
            ("loss < 0.3", 0.29, True),
            ("loss < 0.3", 0.3, False),
            ("loss <= 0.3", 0.3, True),
            ("loss > 0.3", 0.3, False),
            ("loss >= 0.3", 0.3, True),
            ("loss > 0.3", math.inf, True),
            ("loss < 0.3", -math.inf, True),
        ]
    ):
        await give(agent, rule(condition, id=f"case-{step}"))
        before = await resets(agent)
        await agent.send([step], loss=value)
        assert await resets(agent) - before == acts, (condition, value)


async def test_a_target_counts_only_while_the_run_is_stabilized(agent: Any) -> None:
    await give(agent, rule("target_min < 0.3 for 2 steps"))
    await agent.change(0, {"mode": "observe"})
    await agent.send(range(1, 10), target_min=0.1, applied=[agent.applied(1, 1, mode="observe")])
    assert (await state(agent))["count"] == 0
    assert await resets(agent) == 0


async def test_the_budget_is_kept_and_given_again_with_the_rule(agent: Any) -> None:
    await give(agent, rule("loss > 9", max_actions=2, cooldown_steps=0))
    for step in range(1, 6):
        await agent.send([step], loss=10)
    assert await resets(agent) == 2
    assert (await state(agent))["actions_left"] == 0
    await give(agent, rule("loss > 9", max_actions=2, cooldown_steps=0))  # as it was: nothing is renewed
    await agent.send([6], loss=10)
    assert await resets(agent) == 2
    await give(agent, rule("loss > 9", max_actions=3, cooldown_steps=0))
    for step in range(7, 12):
        await agent.send([step], loss=10)
    assert await resets(agent) == 5


async def test_after_an_action_it_neither_acts_nor_counts_until_both_locks_are_over(agent: Any, clock: Any) -> None:
    await give(agent, rule("loss > 9 for 2 steps", max_actions=9, cooldown_steps=10, cooldown_s=60))
    await agent.send([1, 2], loss=10)
    assert await resets(agent) == 1
    await agent.send(range(3, 20), loss=10)
    shown = await state(agent)
    assert (shown["count"], shown["cooldown_until_step"], shown["cooldown_until_time"]) == (0, None, clock.now + 60)
    clock.now += 61
    await agent.send([20], loss=10)
    assert ((await state(agent))["count"], await resets(agent)) == (1, 1)
    await agent.send([21], loss=10)
    assert await resets(agent) == 2
    clock.now += 61
    await agent.send(range(22, 32), loss=10)  # steps 21 to 30 are locked
    assert ((await state(agent))["count"], await resets(agent)) == (1, 2)


async def test_a_batch_that_comes_again_to_many_servers_at_once_counts_and_acts_once(agent: Any, serve: Any) -> None:
    servers = [agent.client, await serve(), await serve()]
    await give(agent, rule("loss > 9 for 30 steps", max_actions=9, cooldown_steps=0))
    for sequence in (1, 2, 3):
        sent = agent.batch(sequence, range(sequence * 10, sequence * 10 + 10), loss=10)
        again = [type(agent)(server) for server in servers for _ in range(3)]
        responses = await asyncio.gather(*(each.post(sent) for each in again))
        assert {answer.status_code for answer in responses} == {200}
        assert (await state(agent))["count"] == (sequence * 10) % 30
    assert await resets(agent) == 1
    assert len((await agent.get("/audit"))["entries"]) == 1


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """As if each server were killed between the commit of a batch and what is due by it."""

    async def away(*_: Any) -> None:
        raise redis.ConnectionError("as if the store went in this moment")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "execute", away)
        yield


async def test_a_rule_that_was_taken_away_does_nothing_even_where_its_action_was_due(agent: Any) -> None:
    await give(agent, rule("loss > 9"))
    with stopped():
        await agent.send([1], loss=10)
    assert (await give(agent)).status_code == 200
    await agent.send([2], loss=10)
    assert await resets(agent) == 0
    assert (await agent.get("/rules")) == {"revision": 2, "rules": []}


async def test_what_was_due_is_done_by_the_next_batch(agent: Any) -> None:
    await give(agent, rule("loss > 9"))
    with stopped():
        assert (await agent.send([1], loss=10))["desired"]["revision"] == 0
    assert (await agent.send([2], loss=1))["desired"]["revision"] == 1
    assert (await state(agent))["last_step"] == 1


async def test_what_was_due_to_the_process_before_is_not_done_to_a_new_one(
    agent: Any, api: Any, make_agent: Any
) -> None:
    await give(agent, rule("loss > 9", cooldown_steps=0))
    with stopped():
        await agent.send([1], loss=10)
    again = make_agent(api, instance="two")
    await again.register()
    await again.send([1], loss=1)
    assert ((await state(agent))["actions_left"], await resets(agent)) == (1, 0)
    await again.send([2], loss=10)
    assert ((await state(agent))["actions_left"], await resets(agent)) == (0, 1)


async def test_a_new_process_of_the_run_counts_anew_and_has_the_budget_that_is_left(
    agent: Any, api: Any, make_agent: Any
) -> None:
    await give(agent, rule("loss > 9 for 2 steps", max_actions=2, cooldown_steps=0))
    await agent.send([1, 2, 3], loss=10)
    again = make_agent(api, instance="two", applied_revision=1, settings={"reset_generation": 1})
    await again.register()
    await again.send([1], loss=10)
    assert ((await state(agent))["count"], await resets(agent)) == (1, 1)
    await again.send(range(2, 9), loss=10)
    assert ((await state(agent))["actions_left"], await resets(agent)) == (0, 2)


async def test_an_action_that_finds_its_settings_in_force_is_counted_and_makes_no_revision(agent: Any) -> None:
    await agent.change(0, {"mode": "observe"})
    await give(agent, rule("loss > 9", {"mode": "observe"}))
    assert (await agent.send([1], loss=10))["desired"]["revision"] == 1
    shown = await state(agent)
    assert (shown["actions"], shown["last_revision"]) == (1, None)
    assert (await agent.events())[-1][
        "message"
    ] == "rule low, loss > 9: changed nothing: the settings already had these values."


async def test_of_two_operators_who_replace_one_list_one_wins(agent: Any) -> None:
    await give(agent, rule("loss > 9"))
    responses = await asyncio.gather(
        give(agent, rule("loss > 8"), revision=1), give(agent, rule("loss > 7"), revision=1)
    )
    assert sorted(answer.status_code for answer in responses) == [200, 412]
    assert (await agent.get("/rules"))["revision"] == 2


async def test_a_run_without_rules_stores_nothing_for_them(agent: Any, store_url: str) -> None:
    await agent.send(range(1, 20), loss=10)
    with redis.Redis.from_url(store_url, protocol=2) as client:
        assert client.hmget(RUN, "rules", "rule_progress", "schedules", "automation_version") == [None] * 4
        await give(agent, rule("loss > 99"))
        await agent.send(range(20, 40), loss=10)
        assert client.hexists(RUN, "rule_progress")


GOOD: dict[str, Any] = {
    "id": "low",
    "when": {"scalar": "loss", "comparison": ">", "value": 9},
    "settings": {"paused": True},
}


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"id": ""}, 422, "id must match"),
    ({"id": "Low!"}, 422, "id must match"),
    ({"when": {"scalar": "spike_parameter", "comparison": ">", "value": 9}}, 422, "scalar must be one of loss"),
    ({"when": {"scalar": "loss", "comparison": "==", "value": 9}}, 400, "comparison"),
    ({"when": {"scalar": "loss", "comparison": ">", "value": 1e39}}, 422, "value must be a number"),
    ({"when": {"scalar": "loss", "comparison": ">", "value": 9, "for_steps": 0}}, 422, "for_steps must be"),
    ({"when": {"scalar": "loss", "comparison": ">", "value": 9, "times": -1}}, 422, "times must be"),
    ({"when": {"scalar": "loss", "comparison": ">", "value": 9, "times": 10**40}}, 422, "times must be"),
    (
        {"when": {"scalar": "loss", "comparison": ">", "value": 9, "times": 2, "for_steps": 2}},
        422,
        "combined with for_steps",
    ),
    ({"settings": {}}, 422, "settings must name at least one"),
    ({"settings": {"gamma2": 1}}, 422, "gamma2 must be in"),
    ({"settings": {"checkpoint_generation": 1}}, 422, "must be"),
    ({"max_actions": 0}, 422, "max_actions must be"),
    ({"cooldown_steps": -1}, 422, "cooldown_steps must be"),
    ({"cooldown_s": -0.1}, 422, "cooldown_s must be"),
    ({"reason": "x" * 301}, 422, "reason must have"),
    ({"lock_step": 5}, 422, "lock_step' is not a field: it must be one of id, when,"),
    ({"when": {**GOOD["when"], "for_step": 5}}, 422, "for_step' is not a field: it must be one of scalar,"),
]


async def test_a_rule_that_cannot_be_meant_is_refused_and_the_others_stay(agent: Any) -> None:
    await give(agent, rule("loss > 8"))
    for change, status, said in REFUSED:
        answer = await give(agent, {**GOOD, "id": "other"}, {**GOOD, **change})
        assert (answer.status_code, said in answer.text) == (status, True), (change, answer.text)
    assert (await state(agent))["condition"] == "loss > 8"


async def test_rules_are_few_and_have_names_of_their_own(agent: Any) -> None:
    assert "id must be unique: got 'low'" in (await give(agent, GOOD, GOOD)).text
    many = [{**GOOD, "id": f"rule-{at}"} for at in range(MAX_RULES + 1)]
    assert (await give(agent, *many)).status_code == 422
    assert (await give(agent, *many[1:])).status_code == 200
    assert (await agent.client.put(f"{agent.run}/rules", content=b"[1")).status_code == 400
    body = b'{"rules": [], "revision": ' + b"9" * 5000 + b"}"
    assert 400 <= (await agent.client.put(f"{agent.run}/rules", content=body)).status_code < 500


async def test_an_unknown_run_has_no_rules_and_an_ended_one_can_only_lose_them(agent: Any) -> None:
    assert (await agent.client.put("/runs/nobody/rules", content=encode_json({"rules": [GOOD]}))).status_code == 404
    await give(agent, GOOD)
    await agent.client.post(f"{agent.run}/finish", content=encode_json({"state": "finished"}))
    assert (await give(agent, {**GOOD, "max_actions": 2})).status_code == 409
    assert (await give(agent)).status_code == 200
    assert (await agent.get("/rules"))["rules"] == []


async def test_a_rule_with_a_baseline_acts_on_what_leaves_it_and_its_baseline_outlives_the_process(
    agent: Any, api: Any, make_agent: Any
) -> None:
    await give(
        agent,
        rule("loss > mean + 6 sigma of 100 for 3 steps", id="high", reason="jumped"),
        rule("loss is nan for 2 steps", {"paused": True}, id="nan"),
    )
    for first in (1, 31, 61):  # in batches, as an agent sends them
        await agent.send(range(first, first + 30), loss=[2 + 0.1 * math.sin(step) for step in range(30)])
    await agent.send(range(91, 95), loss=[9, 9, 2, 9])
    assert ((await state(agent))["count"], await resets(agent)) == (1, 0)
    again = make_agent(api, instance="two")
    await again.register()
    await again.send(range(95, 98), loss=9)
    assert await resets(agent) == 1
    (entry,) = (await agent.get("/audit"))["entries"]
    assert entry["reason"] == "loss > mean + 6 sigma of 100 for 3 steps: jumped"
    answer = await again.send(range(98, 100), loss=math.nan, loss_nonfinite=1)
    assert answer["desired"]["settings"]["paused"] is True
