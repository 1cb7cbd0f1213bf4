"""Schedules: a change that waits for a step is made once, whoever sees the step, and audited like an operator's."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
import redis

from steadynorm_contract.codec import encode_json
from steadynorm_contract.schedules import MAX_SCHEDULES
from steadynorm_contract.settings import Settings

RUN = "steadynorm:{tiny-1}:run"


async def order(agent: Any, from_step: int, settings: Any, client: Any = None, **more: Any) -> httpx.Response:
    """POST a schedule."""
    content = encode_json({"from_step": from_step, "settings": settings, **more})
    answer: httpx.Response = await (client or agent.client).post(f"{agent.run}/schedules", content=content)
    return answer


async def schedules(agent: Any) -> list[dict[str, Any]]:
    """As listed."""
    found: list[dict[str, Any]] = (await agent.get("/schedules"))["schedules"]
    return found


async def test_the_change_is_made_when_the_step_is_reached_and_the_same_answer_carries_it(agent: Any) -> None:
    made = await order(agent, 100, {"gamma2": 0.99}, reason="long memory from here")
    assert made.status_code == 201, made.text
    assert made.headers["location"] == "/api/v1/runs/tiny-1/schedules"
    assert (made.json()["state"], made.json()["created_by"]) == ("waiting", "local")
    assert (await agent.send(range(90, 100)))["desired"]["revision"] == 0
    answer = await agent.send(range(100, 110))
    assert (answer["desired"]["revision"], answer["desired"]["settings"]["gamma2"]) == (1, 0.99)
    (entry,) = (await agent.get("/audit"))["entries"]
    assert (entry["actor"], entry["reason"]) == (f"schedule:{made.json()['id']} by local", "long memory from here")
    assert (entry["before"], entry["after"]) == ({"gamma2": 0.999}, {"gamma2": 0.99})
    assert (await agent.get("/audit", verify=True))["chain"]["verified"] is True
    (done,) = await schedules(agent)
    assert (done["state"], done["revision"], done["step"]) == ("done", 1, 109)
    (event,) = await agent.events()
    assert (event["kind"], event["step"], event["value"]) == ("automation", 109, 1)
    assert event["message"] == f"schedule {done['id']} from step 100: set gamma2 0.99, as revision 1."
    await agent.change(1, {"gamma2": 0.9})
    assert (await agent.send(range(110, 120)))["desired"]["revision"] == 2  # it is over


async def test_a_batch_that_comes_again_to_many_servers_at_once_makes_the_change_once(agent: Any, serve: Any) -> None:
    servers = [agent.client, await serve(), await serve()]
    await order(agent, 10, {"reset_generation": "+1"})
    sent = agent.batch(1, range(1, 20))
    agents = [type(agent)(server) for server in servers for _ in range(4)]
    responses = await asyncio.gather(*(each.post(sent) for each in agents))
    assert {answer.status_code for answer in responses} == {200}
    assert (await agent.get("/settings"))["settings"]["reset_generation"] == 1
    assert len((await agent.get("/audit"))["entries"]) == 1
    assert [event["kind"] for event in await agent.events()] == ["automation"]


async def test_who_was_stopped_before_the_change_leaves_it_to_the_next_batch(
    agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import ConnectionError as Away

    from steadynorm_server.automation import execution

    async def away(*_: Any) -> None:
        raise Away("as if the store went in this moment")

    await order(agent, 10, {"gamma2": 0.9})
    with monkeypatch.context() as patch:
        patch.setattr(execution, "execute", away)
        assert (await agent.send(range(1, 11)))["desired"]["revision"] == 0  # the batch itself is stored
    assert (await agent.send([11]))["desired"]["revision"] == 1
    assert len((await agent.get("/audit"))["entries"]) == 1


async def test_several_are_made_in_the_order_of_their_steps(agent: Any) -> None:
    for step, gamma in ((30, 0.7), (10, 0.9), (20, 0.8)):
        await order(agent, step, {"gamma2": gamma})
    assert [each["from_step"] for each in await schedules(agent)] == [10, 20, 30]
    await agent.send(range(1, 26))
    assert [entry["after"]["gamma2"] for entry in (await agent.get("/audit"))["entries"]] == [0.8, 0.9]
    assert [each["state"] for each in await schedules(agent)] == ["waiting", "done", "done"]
    await agent.send([30])
    assert (await agent.get("/settings"))["settings"]["gamma2"] == 0.7


async def test_an_operator_who_changes_the_settings_meanwhile_holds_no_schedule_up(agent: Any, serve: Any) -> None:
    other = await serve()
    await order(agent, 5, {"gamma2": 0.9})
    changes = (
        other.patch(f"{agent.run}/settings", content=encode_json({"settings": {"gamma1": 0.1}}),
                    headers={"If-Match": '"0"'})
        for _ in range(3)
    )  # fmt: skip
    await asyncio.gather(agent.send(range(1, 10)), *changes)
    settings = (await agent.get("/settings"))["settings"]
    assert settings["gamma2"] == 0.9
    entries = (await agent.get("/audit"))["entries"]
    assert sum(entry["actor"].startswith("schedule:") for entry in entries) == 1


async def test_one_that_waits_can_be_taken_back_and_one_that_was_made_cannot(agent: Any) -> None:
    first, second = [(await order(agent, step, {"gamma2": 0.9})).json()["id"] for step in (10, 20)]
    assert (await agent.client.delete(f"{agent.run}/schedules/{second}")).status_code == 204
    await agent.send(range(1, 30))
    assert [each["id"] for each in await schedules(agent)] == [first]
    late = await agent.client.delete(f"{agent.run}/schedules/{first}")
    assert late.status_code == 409
    assert "is done, at step 29 as revision 1; `steadynorm undo` reverts it" in late.json()["detail"]
    gone = await agent.client.delete(f"{agent.run}/schedules/{second}")
    assert (gone.status_code, gone.json()["title"]) == (404, "Schedule not found")


async def test_a_schedule_that_finds_its_settings_in_force_is_done_without_a_revision(agent: Any) -> None:
    await order(agent, 10, {"gamma2": 0.9})
    await agent.change(0, {"gamma2": 0.9})
    assert (await agent.send([10]))["desired"]["revision"] == 1
    (done,) = await schedules(agent)
    assert (done["state"], done["revision"], done["why"]) == ("done", None, "the settings already had these values.")
    assert len((await agent.get("/audit"))["entries"]) == 1


async def test_a_counter_at_its_end_fails_and_says_so(agent: Any) -> None:
    await order(agent, 10, {"reset_generation": "+1"})
    await agent.change(0, {"reset_generation": 2**31 - 1})
    assert (await agent.send([10]))["desired"]["revision"] == 1
    (failed,) = await schedules(agent)
    assert failed["state"] == "failed"
    assert "reset_generation must be a whole number" in failed["why"]
    assert "did nothing: reset_generation" in (await agent.events())[-1]["message"]


async def test_a_run_that_is_back_at_an_earlier_step_meets_again_only_schedules_that_wait(
    agent: Any, api: Any, make_agent: Any
) -> None:
    await order(agent, 10, {"gamma2": 0.9})
    await order(agent, 50, {"gamma2": 0.8})
    await agent.send(range(1, 40))
    again = make_agent(api, instance="two", step=5, applied_revision=1, settings=Settings(gamma2=0.9))
    await again.register()
    assert (await again.send(range(5, 45)))["desired"]["revision"] == 1
    assert (await order(again, 44, {"gamma1": 0.5})).status_code == 422  # it has been there, in this life
    assert (await again.send(range(45, 60)))["desired"]["revision"] == 2
    assert (await agent.get("/settings"))["settings"]["gamma2"] == 0.8


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"from_step": 7, "settings": {"gamma2": 0.9}}, 422, "got 7, the run is at step 7"),
    ({"from_step": -1, "settings": {"gamma2": 0.9}}, 422, "from_step must be"),
    ({"from_step": 2**53, "settings": {"gamma2": 0.9}}, 422, "from_step must be"),
    ({"from_step": 10**30, "settings": {"gamma2": 0.9}}, 422, "from_step must be"),
    ({"from_step": 1.5, "settings": {"gamma2": 0.9}}, 400, "from_step"),
    ({"settings": {"gamma2": 0.9}}, 400, "from_step"),
    ({"from_step": 10, "settings": {}}, 422, "settings must name at least one"),
    ({"from_step": 10, "settings": {"gamma2": 1.0}}, 422, "gamma2 must be in"),
    ({"from_step": 10, "settings": {"shiny": 1}}, 422, "shiny is not a setting"),
    ({"from_step": 10, "settings": {"reset_generation": 3}}, 422, 'must be an increment such as \\"+1\\"'),
    ({"from_step": 10, "settings": {"reset_generation": "+"}}, 422, "must be an increment"),
    ({"from_step": 10, "settings": {"gamma2": 0.9}, "reason": "x" * 501}, 422, "reason"),
    ({"from_step": 10, "settings": {"gamma2": 0.9}, "form_step": 1}, 400, "form_step"),
]


async def test_what_cannot_be_meant_is_refused(agent: Any) -> None:
    await agent.send([7])
    for body, status, said in REFUSED:
        answer = await agent.client.post(f"{agent.run}/schedules", content=encode_json(body))
        assert (answer.status_code, said in answer.text) == (status, True), (body, answer.text)
    assert await schedules(agent) == []


async def test_a_number_of_thousands_of_digits_is_refused_and_not_printed(agent: Any) -> None:
    body = b'{"from_step": ' + b"9" * 5000 + b', "settings": {"gamma2": 0.9}}'
    answer = await agent.client.post(f"{agent.run}/schedules", content=body)
    assert 400 <= answer.status_code < 500, answer.text


async def test_a_setting_that_the_agent_does_not_allow_is_refused_at_once(api: Any, make_agent: Any) -> None:
    agent = make_agent(api, allow=["gamma1"])
    await agent.register()
    answer = await order(agent, 10, {"gamma2": 0.9})
    assert answer.status_code == 422
    assert "gamma2 must be among those that the run's agent allows: gamma1." in answer.json()["detail"]
    assert (await order(agent, 10, {"gamma1": 0.9})).status_code == 201


async def test_a_schedule_that_a_new_agent_of_the_run_does_not_allow_fails_once(api: Any, make_agent: Any) -> None:
    agent = make_agent(api)
    await agent.register()
    assert (await order(agent, 10, {"gamma2": 0.9})).status_code == 201
    limited = make_agent(api, allow=["gamma1"])
    await limited.register()
    await limited.send([10])
    (schedule,) = (await limited.get("/schedules"))["schedules"]
    assert (schedule["state"], schedule["revision"]) == ("failed", None)
    assert "gamma2 must be among those that the run's agent allows: gamma1." in schedule["why"]


async def test_an_unknown_or_ended_run_takes_none(agent: Any) -> None:
    content = encode_json({"from_step": 10, "settings": {"gamma2": 0.9}})
    assert (await agent.client.post("/runs/nobody/schedules", content=content)).status_code == 404
    assert (await agent.client.get("/runs/nobody/schedules")).status_code == 404
    await agent.client.post(f"{agent.run}/finish", content=encode_json({"state": "finished"}))
    assert (await order(agent, 10, {"gamma2": 0.9})).status_code == 409


async def test_there_is_a_most_of_those_that_wait_and_few_of_the_others_are_kept(agent: Any, store_url: str) -> None:
    for turn in range(3):
        for at in range(MAX_SCHEDULES):
            step = turn * 100 + at + 10
            assert (await order(agent, step, {"gamma2": 0.5 + step / 1000})).status_code == 201
        assert (await order(agent, 1000, {"gamma2": 0.9})).status_code == 422
        await agent.send([turn * 100 + 99])
    assert (await agent.get("/settings"))["revision"] == 3 * MAX_SCHEDULES
    listed = await schedules(agent)
    assert [each["from_step"] for each in listed] == list(range(229, 209, -1))
    with redis.Redis.from_url(store_url, protocol=2) as client:
        assert client.hstrlen(RUN, "schedules") < 10_000  # every batch reads it


async def test_an_event_has_the_word_for_no_limit_that_people_type(agent: Any) -> None:
    await agent.change(0, {"spike_limit": 10.0})
    for at, word in enumerate(("none", "null", None)):
        assert (await order(agent, 10 * (at + 1), {"spike_limit": word, "eps": 1e-9 * (at + 1)})).status_code == 201
    await agent.send(range(1, 40))
    said = [event["message"] for event in await agent.events() if event["kind"] == "automation"]
    assert len(said) == 3
    assert all("set spike_limit off, eps" in message for message in said), said
