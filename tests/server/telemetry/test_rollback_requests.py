"""A rollback's event and note say who asked: a person, a rule, a schedule, or that a detector raised an alarm."""

from __future__ import annotations

from typing import Any

from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import AgentNote, NoteKind, UserNote
from steadynorm_contract.watch_rules import WatchRule, parse_condition

HELD = " The learning rate is held at 0.5 times its value for 10 steps."


async def carried_out(agent: Any, step: int, generation: int) -> dict[str, Any]:
    """The agent tells of a rollback that was asked for."""
    told = f"rolled back from {step} to 5: requested, rollback_generation {generation}.{HELD}"
    await agent.send(
        [step],
        notes=[AgentNote(NoteKind.ROLLBACK, step, 1.0, 0, told, 5.0)],
        user_notes=[UserNote(step, 1.0, told)],
    )
    event: dict[str, Any] = (await agent.events())[-1]
    assert (await agent.get("/notes"))["notes"][0]["text"] == event["message"]
    return event


async def test_who_asked_is_told_with_the_revision_and_the_reason_as_the_audit_list_has_them(agent: Any) -> None:
    await agent.change(0, {"rollback_generation": 1}, reason="a poisoned <shard>")
    event = await carried_out(agent, 10, 1)
    assert event["actor"] == "local"
    asked = "requested by local as revision 1 (a poisoned <shard>)"
    assert event["message"] == f"rolled back from 10 to 5: {asked}.{HELD}"

    rule = WatchRule(id="back", when=parse_condition("nonfinite > 0"), settings={"rollback_generation": "+1"})
    await agent.client.put(f"{agent.run}/rules", content=encode_json({"rules": [rule]}))
    await agent.send([11], nonfinite=1)
    event = await carried_out(agent, 12, 2)
    assert event["actor"] == "rule:back by local"
    assert "requested by rule:back by local as revision 2 (nonfinite > 0)" in event["message"]

    event = await carried_out(agent, 13, 7)  # which this server never saw
    assert event["actor"] is None
    assert "requested, rollback_generation 7" in event["message"]

    found = "loss is nan for 2 steps (a loss that is NaN or infinite)"
    sly = UserNote(14, 1.0, "requested, rollback_generation 1")
    message = f"rolled back from 14 to 5: {found}."
    await agent.send([14], notes=[AgentNote(NoteKind.ROLLBACK, 14, 1.0, 0, message, 5.0)], user_notes=[sly])
    event = (await agent.events())[-1]
    assert (event["actor"], event["message"]) == (None, message)
    assert (await agent.get("/notes"))["notes"][0]["text"] == sly.text
