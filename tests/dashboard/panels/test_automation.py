"""What changes a run's settings by itself is on its page, with what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from streamlit.testing.v1 import AppTest
from tests.support.dashboard import tables

import steadynorm_dashboard
from steadynorm_contract.codec import encode_json
from steadynorm_contract.schedules import Schedule, ScheduleState
from steadynorm_contract.telemetry import RunRegistration
from steadynorm_contract.watch_rules import RuleView, WatchRule, parse_condition
from steadynorm_dashboard.panels.automation import rule_rows, schedule_rows

if TYPE_CHECKING:
    from tests.support.local_server import RunningStack

APP = Path(steadynorm_dashboard.__file__).with_name("app.py")
NOW = 1_700_000_000.0
EVIL = "<b>\u202eevil\x1b"


def view(**changes: Any) -> RuleView:
    rule = WatchRule(
        id="low", when=parse_condition("target_min < 0.3 for 200 steps"), settings={"reset_generation": "+1"},
        reason=EVIL, max_actions=3,
    )  # fmt: skip
    stands = {"created_by": EVIL, "created_at": NOW, "count": 150, "needed": 200, "actions": 1, "actions_left": 2}
    return RuleView(rule=rule, **{"condition": "target_min < 0.3 for 200 steps", **stands, **changes})


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "watching"),
        ({"cooldown_until_step": 1300}, "in cooldown until step 1,300"),
        ({"cooldown_until_time": NOW + 60}, "in cooldown until 22:14:20"),
        ({"actions_left": 0, "cooldown_until_step": 1300}, "no actions left"),
        ({"has_value": False, "warning": f"no scalar {EVIL}"}, "has seen no value yet: no scalar <b>\ufffdevil\ufffd"),
    ],
)
def test_a_rule_says_where_it_stands(changes: dict[str, Any], shown: str) -> None:
    (row,) = rule_rows([view(**changes)], NOW, None)
    assert row["state"] == shown
    assert (row["count"], row["change"]) == ("150 of 200", "reset_generation = +1")
    assert row["who"] == row["why"] == "<b>\ufffdevil\ufffd"


def test_a_schedule_says_what_it_waits_for_or_made() -> None:
    waits = Schedule(
        id="1f", from_step=9, settings={"gamma2": 0.9, "mode": "off"}, reason="", created_by="me", created_at=NOW
    )
    done = Schedule(id="2f", from_step=5, settings={}, reason=EVIL, created_by="me", created_at=NOW,
        revision=4, step=1006,
                    state=ScheduleState.DONE)  # fmt: skip
    first, second = schedule_rows([waits, done])
    assert (first["change"], first["state"], first["outcome"]) == ("gamma2 = 0.9, mode = off", "waiting", "")
    assert (second["state"], second["outcome"], second["why"]) == ("done at step 1,006", "r4", "<b>\ufffdevil\ufffd")


def test_the_runs_page_has_both_tables(stack: RunningStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with urllib3.PoolManager() as pool:
        headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
        body = encode_json(RunRegistration(name="automatic", run_id="automatic-1", instance="one"))
        assert pool.request("POST", f"{stack.server}/api/v1/runs", body=body, headers=headers).status == 201
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
    monkeypatch.setenv("STEADYNORM_SERVER", stack.server)
    page = AppTest.from_file(str(APP), default_timeout=60)
    page.query_params.update({"run": "automatic-1", "token": stack.token})
    page.session_state["automatic-1/tab"] = "Automation"
    page.run()
    assert "No schedules or rules change this run's settings." in [caption.value for caption in page.caption]
    stack.client.schedule("automatic-1", 10_000, {"gamma2": 0.999})
    stack.client.set_rules("automatic-1", [view().rule])
    page.run()
    assert not page.exception
    captions = [caption.value for caption in page.caption]
    assert "schedules: 1 waiting, 0 done" in captions
    assert "rules: 1" in captions
    schedules, rules = tables(page)
    assert [row["from step"] for row in schedules] == ["10,000"]
    assert [row["actions left"] for row in rules] == ["3 of 3"]
