"""Knobs of a training loop: declared at registration, then settings like all others, under the name `knob.NAME`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from steadynorm_contract.codec import encode_json
from steadynorm_contract.knobs import MAX_KNOBS, Knob, KnobKind
from steadynorm_contract.settings import Settings

COEF = Knob(name="entropy_coef", default=0.01, low=0, high=0.1)
BATCH = Knob(name="batch", default=8, low=1, high=64, kind=KnobKind.INTEGER)
DECAY = Knob(name="weight_decay", default=0.1, low=0, high=1, own=True)
VALUES = {"knob.entropy_coef": 0.01, "knob.batch": 8, "knob.weight_decay": None}


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough."""
    return empty_valkey


async def declare(agent: Any, **changes: Any) -> dict[str, Any]:
    """Register again as a process that has knobs."""
    given = {"knobs": [COEF, BATCH, DECAY], "later_settings": VALUES, "instance": "two", **changes}
    agent.registration = msgspec.structs.replace(agent.registration, **given)
    registered: dict[str, Any] = await agent.register()
    return registered


async def test_a_knob_is_a_setting_in_every_respect(agent: Any) -> None:
    assert (await declare(agent, run_id="knobs-1"))["max_knobs"] == MAX_KNOBS
    agent.run = "/runs/knobs-1"
    shown = await agent.get()
    assert [each["name"] for each in shown["knobs"]] == ["entropy_coef", "batch", "weight_decay"]
    began = {"batch": 8.0, "entropy_coef": 0.01, "weight_decay": None}
    assert shown["desired"]["settings"]["knobs"] == shown["applied"]["settings"]["knobs"] == began

    answer = await agent.change(0, {"knob.entropy_coef": 0.02, "gamma2": 0.99}, reason="more exploration")
    assert (answer.status_code, answer.json()["settings"]["knobs"]) == (200, began | {"entropy_coef": 0.02})
    assert (await agent.change(0, {"knob.batch": 16})).status_code == 412  # If-Match, as for any other
    nested = await agent.change(1, {"knobs": {"weight_decay": 0.2}, "lr": 0.001, "detail_every": 2})
    assert nested.json()["settings"]["knobs"]["weight_decay"] == 0.2
    newest, oldest = (await agent.get("/audit"))["entries"]
    assert oldest["before"] == {"gamma2": 0.999, "knob.entropy_coef": 0.01}
    assert oldest["after"] == {"gamma2": 0.99, "knob.entropy_coef": 0.02}
    assert newest["before"] == {"knob.weight_decay": None, "lr": None, "detail_every": 10}
    assert (await agent.get("/audit", verify=True))["chain"]["verified"] is True

    made = await agent.client.post(
        f"{agent.run}/schedules", content=encode_json({"from_step": 5, "settings": {"knob.batch": 32}})
    )
    assert made.status_code == 201, made.text
    answer = await agent.send(range(1, 6))
    assert (answer["desired"]["revision"], answer["desired"]["settings"]["knobs"]["batch"]) == (3, 32.0)
    settings = {"knobs": {"entropy_coef": 0.02, "batch": 32.0, "weight_decay": 0.2}, "detail_every": 2}
    await agent.send([6], applied=[agent.applied(3, 6, **settings)])
    shown = await agent.get()
    assert (shown["applied"]["settings"]["knobs"], shown["detail_every"]) == (settings["knobs"], 2)
    assert shown["desired"]["state"] == "applied"


REFUSED = [
    ({"knob.entropy_coef": 0.2}, "knob.entropy_coef", "must be in [0, 0.1]"),
    ({"knob.entropy_coef": None}, "knob.entropy_coef", "must be in [0, 0.1]"),
    ({"knob.entropy_coef": True}, "knob.entropy_coef", "must be in [0, 0.1]"),
    ({"knob.entropy_coef": "0.02"}, "knob.entropy_coef", "must be in [0, 0.1]"),
    ({"knob.batch": 2.5}, "knob.batch", "must be a whole number in [1, 64]"),
    ({"knob.weight_decay": 10**400}, "knob.weight_decay", "must be in [0, 1] or off"),
    ({"knob.entropy_coeff": 0.02}, "knob.entropy_coeff", "Near: knob.entropy_coef."),
    ({"knob.\x00<script>": 1}, "knob.\x00<script>", "knob.\\x00<script> must be a knob that the run declares"),
    ({"knob." + "x" * 5000: 1}, "knob." + "x" * 95, "must be a knob that the run declares"),
    ({"knobs": {"no": 1}}, "knob.no", "It has: knob.entropy_coef, knob.batch, knob.weight_decay."),
    ({"knobs": [1]}, "knobs", "must be a known setting"),
]


@pytest.mark.parametrize(("settings", "field", "said"), REFUSED, ids=range(len(REFUSED)))
async def test_a_wrong_value_or_name_is_refused_by_field_and_rule(
    agent: Any, settings: dict[str, object], field: str, said: str
) -> None:
    await declare(agent)
    for path in ("settings", "schedules", "bulk"):
        if path == "settings":
            answer = await agent.change(0, settings)
        elif path == "schedules":
            body = encode_json({"from_step": 5, "settings": settings})
            answer = await agent.client.post(f"{agent.run}/schedules", content=body)
        else:
            body = encode_json({"settings": settings, "select": {"name": "*"}, "dry_run": True})
            answer = await agent.client.post("/settings/bulk", content=body)
        if answer.status_code == 200:  # of a bulk change, a knob of which other runs may have
            (row,) = answer.json()["runs"]
            assert row["outcome"] == "rejected"
            assert said in row["why"] or "must be" in row["why"]
            continue
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert error["field"] == field
        assert path == "bulk" or said in error["rule"] + error["message"]
    assert (await agent.get("/audit"))["entries"] == []


async def test_a_bulk_change_and_a_rule_turn_the_knobs_of_the_runs_that_have_them(agent: Any) -> None:
    other = type(agent)(agent.client, run_id="other-1", instance="x")
    await other.register()
    await declare(agent)
    bulk: dict[str, Any] = {"settings": {"knob.entropy_coef": 0.05}, "select": {"name": "*"}, "dry_run": True}
    preview = (await agent.client.post("/settings/bulk", content=encode_json(bulk))).json()
    assert {row["run_id"]: row["outcome"] for row in preview["runs"]} == {"other-1": "rejected", "tiny-1": "change"}
    bulk |= {"dry_run": False, "revisions": preview["revisions"]}
    done = (await agent.client.post("/settings/bulk", content=encode_json(bulk))).json()
    assert {row["run_id"]: row["outcome"] for row in done["runs"]} == {"other-1": "rejected", "tiny-1": "changed"}

    rule = {
        "id": "high", "when": {"scalar": "loss", "comparison": ">", "value": 20, "times": 1}, "max_actions": 1,
        "settings": {"knob.entropy_coef": 0.0},
    }  # fmt: skip
    put = await agent.client.put(f"{agent.run}/rules", content=encode_json({"rules": [rule]}))
    assert put.status_code == 200, put.text
    answer = await agent.send([1], loss=30.0)
    assert answer["desired"]["settings"]["knobs"]["entropy_coef"] == 0.0
    assert (await agent.get("/audit"))["entries"][0]["actor"].startswith("rule:high")


async def test_what_the_agent_does_not_allow_and_what_it_is_too_old_for_is_refused(agent: Any) -> None:
    for settings in ({"lr": 0.1}, {"detail_every": 1}):
        answer = await agent.change(0, settings)
        assert (answer.status_code, "Upgrade steadynorm there" in answer.json()["detail"]) == (422, True)
    assert "lr" not in (await agent.get("/settings"))["settings"]  # which such an agent could not read
    await declare(agent, allow=["gamma2"], later_allow=["knob.batch"])
    assert (await agent.change(0, {"knob.batch": 9})).status_code == 200
    assert (await agent.change(1, {"knob.entropy_coef": 0.02})).status_code == 422
    assert (await agent.change(1, {"lr": 0.02})).status_code == 422
    await declare(agent, allow=[], later_allow=["knob.*"], instance="three")
    assert (await agent.change(1, {"knob.entropy_coef": 0.02})).status_code == 200


async def test_a_program_with_other_knobs_goes_on_with_those_that_it_has(agent: Any) -> None:
    await declare(agent)
    await agent.change(0, {"knob.entropy_coef": 0.09, "knob.batch": 32})
    narrower = Knob(name="entropy_coef", default=0.02, low=0, high=0.05)
    new = Knob(name="kl", default=1.0, low=0, high=2)
    values = {"knob.entropy_coef": 0.02, "knob.kl": 1.0, "knob.batch": 8}
    await declare(agent, knobs=[narrower, new, BATCH], later_settings=values, instance="three")
    shown = await agent.get()
    assert shown["desired"]["settings"]["knobs"] == {"batch": 32.0, "entropy_coef": 0.02, "kl": 1.0}
    answer = await agent.change(1, {"knob.kl": 0.5})
    assert answer.json()["settings"]["knobs"] == {"batch": 32.0, "entropy_coef": 0.02, "kl": 0.5}
    assert (await agent.get("/audit"))["entries"][0]["after"] == {"knob.kl": 0.5}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "a b"}, "the first of them a letter or _"),
        ({"name": "x" * 65}, "must be 1 to 64"),
        ({"name": "<b>"}, "must be 1 to 64"),
        ({"low": 1.0, "high": 1.0}, "low must be less than high"),
        ({"default": 5.0}, "its default must be in [0, 1]"),
        ({"kind": KnobKind.INTEGER, "default": 0.5}, "must be a whole number"),
        ({"unit": "x" * 41}, "at most 40 characters"),
    ],
)
async def test_a_wrong_declaration_is_refused(agent: Any, wrong: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"name": "k", "default": 0.0, "low": 0.0, "high": 1.0, **wrong}
    knob = Knob(**given)
    body = encode_json(msgspec.structs.replace(agent.registration, knobs=[knob], instance="bad"))
    answer = await agent.client.post("/runs", content=body)
    assert answer.status_code == 422
    assert said in answer.json()["errors"][0]["message"]
    many = [Knob(name=f"k{i}", default=0, low=0, high=1) for i in range(MAX_KNOBS + 1)]
    answer = await agent.client.post(
        "/runs", content=encode_json(msgspec.structs.replace(agent.registration, knobs=many))
    )
    assert answer.status_code in (400, 422)


def test_settings_at_their_defaults_are_the_bytes_that_others_read() -> None:
    known = msgspec.to_builtins(Settings())
    assert not {"lr", "detail_every", "knobs"} & known.keys()
    assert set(known) == set(Settings.__struct_fields__) - {"lr", "detail_every", "knobs"}


@pytest.mark.parametrize("knob", ["batch", "entropy_coef"])
async def test_a_whole_number_beyond_all_floats_is_refused(agent: Any, knob: str) -> None:
    await declare(agent, run_id="knobs-1")
    agent.run = "/runs/knobs-1"
    for digits in (20, 400):
        answer = await agent.client.patch(
            f"{agent.run}/settings",
            content=f'{{"settings": {{"knob.{knob}": {10**digits}}}}}',
            headers={"If-Match": '"0"'},
        )
        assert (answer.status_code, f"knob.{knob} must be" in answer.json()["detail"]) == (422, True), answer.text
