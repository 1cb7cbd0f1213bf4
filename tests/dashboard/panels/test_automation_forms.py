"""Schedules and watch rules are made and taken away on a run's page, by operators, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from streamlit.testing.v1 import AppTest

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.changes import parse_assignments

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, StartRun

VIEWER = "viewer-token-for-tests"


def fill(page: AppTest, form: str, **fields: str | int) -> AppTest:
    """Type into a form's fields and send it."""
    for name, value in fields.items():
        key = f"{form}/{name}"
        box = page.number_input(key=key) if isinstance(value, int) else page.text_input(key=key)
        box.set_value(value)  # type: ignore[arg-type] # of the kind that was just chosen
    page.button(key=f"{form}/go").click().run()
    assert not page.exception
    return page


def test_a_schedule_is_made_with_its_reason_and_taken_back(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run_id = start_run("to be scheduled").run_id
    page = open_page(run_id, tab="Automation")
    fill(page, f"{run_id}/schedule/0", step=10_000, change="gamma2=0.99, mode=observe", reason="[later](x)")
    (made,) = server.client().schedules(run_id).schedules
    assert (made.from_step, made.settings, made.reason) == (10_000, {"gamma2": 0.99, "mode": "observe"}, "[later](x)")
    assert made.created_by == "operator"
    assert page.text_input(key=f"{run_id}/schedule/1/change").value == ""  # room for the next one
    page.button(key=f"{run_id}/automation/remove").click().run()
    assert server.client().schedules(run_id).schedules == []


def test_a_rule_is_given_replaced_and_taken_away_and_leaves_the_others(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run_id = start_run("to be ruled").run_id
    page = open_page(run_id, tab="Automation")
    fill(page, f"{run_id}/rule/0", id="broken", when="nonfinite > 0, 3 times", change="paused=true", reason="look")
    fill(page, f"{run_id}/rule/1", id="low", when="target_min < 0.3 for 200 steps", change="reset_generation=+1")
    fill(page, f"{run_id}/rule/2", id="broken", when="nonfinite > 0", change="paused=true", actions=2, cooldown=7)
    broken, low = (each.rule for each in server.client().rules(run_id).rules)
    assert (broken.id, broken.max_actions, broken.cooldown_steps, broken.when.times) == ("broken", 2, 7, None)
    assert (low.id, low.settings, low.cooldown_steps) == ("low", {"reset_generation": "+1"}, 100)
    page.button(key=f"{run_id}/automation/remove").click().run()
    assert [each.rule.id for each in server.client().rules(run_id).rules] == ["low"]


def test_what_is_refused_is_told_and_what_was_typed_stays(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run_id = start_run("to be refused").run_id
    page = open_page(run_id, tab="Automation")
    form = f"{run_id}/schedule/0"
    for fields, words in (
        ({"change": "gamma2=0.9"}, "needs the step from which it applies"),
        ({"step": 9000, "change": "gamma2"}, "a change must be NAME=VALUE: got 'gamma2'"),
        ({"step": 9000, "change": "gamma2=1.0"}, "gamma2 must be in"),
        ({"step": 5, "change": "gamma2=0.9"}, "step"),
    ):
        fill(page, form, **fields)
        (told,) = page.error
        assert words in told.value.replace("\\", "").replace("\u2060", "")
    assert page.text_input(key=f"{form}/change").value == "gamma2=0.9"
    fill(page, f"{run_id}/rule/0", id="low", when="whenever", change="paused=true")
    assert "a condition must be SCALAR < VALUE" in page.error[0].value.replace("\\", "")
    fill(page, form, step=9000)
    assert not page.error
    assert len(server.client().schedules(run_id).schedules) == 1


def test_a_viewer_sees_the_forms_locked_and_why(open_page: OpenPage, start_run: StartRun, server: LocalStack) -> None:
    run_id = start_run("to be looked at").run_id
    server.client().schedule(run_id, 10_000, {"gamma2": 0.9})
    page = open_page(run_id, VIEWER, tab="Automation")
    locked = [info.value for info in page.info if "read-only access" in info.value]
    assert len(locked) == 3  # the panel of settings, the notes, and here
    for key in ("schedule/0/go", "rule/0/go", "automation/remove"):
        assert page.button(key=f"{run_id}/{key}").disabled
    assert page.text_input(key=f"{run_id}/rule/0/when").disabled


def test_a_run_that_has_ended_offers_no_form(open_page: OpenPage, start_run: StartRun) -> None:
    run = start_run("over")
    run.finish()
    page = open_page(run.run_id, tab="Automation")
    assert "The run has ended: schedules and rules no longer apply." in [one.value for one in page.caption]
    assert f"{run.run_id}/schedule/0/go" not in [button.key for button in page.button]


def test_typed_values_are_json_where_they_parse_as_such() -> None:
    typed = "gamma2=0.99, mode=observe spike_limit=null paused=true reset_generation=+1"
    assert parse_assignments(typed) == {
        "gamma2": 0.99, "mode": "observe", "spike_limit": None, "paused": True, "reset_generation": "+1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "got none"),
        ("gamma2", "NAME=VALUE"),
        ("=1", "NAME=VALUE"),
        ("eps=", "NAME=VALUE"),
        ("eps=1 eps=2", "twice"),
    ],
)
def test_what_is_no_change_is_refused_with_the_rule(typed: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_assignments(typed)
