"""What the settings panel does to the training itself, and what it says of changes that are not in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs
from streamlit.testing.v1 import AppTest

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.runs import Health, RunState
from steadynorm_contract.telemetry import RecoveryStatus, RunEnd
from steadynorm_dashboard.panels import run_actions

if TYPE_CHECKING:
    from streamlit.testing.v1.element_tree import NumberInput
    from tests.support.dashboard import OpenPage, StartRun


def number(app: AppTest, label: str) -> NumberInput:
    """The number that stands there now: a new one takes its place where something else has set the value."""
    return next(one for one in app.number_input if one.label == label)


def said(app: AppTest) -> str:
    """What the page says in words, without escapes."""
    kinds = (app.markdown, app.caption, app.error, app.warning, app.info)
    words = "\n".join(str(element.value) for kind in kinds for element in kind)
    return words.replace("\\", "").replace("\u2060", "")


def test_training_is_paused_and_resumed_with_a_reason(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("halted")
    page = open_page(run.run_id)
    labels = {button.label for button in page.button}
    assert {"Pause training now", "Pause charts", "Checkpoint now"} <= labels
    assert {":red[Checkpoint, then stop now]", ":red[Stop without a checkpoint now]"} <= labels
    page.text_input(key=f"{run.run_id}/pause/reason/input/0").set_value("data is late").run()
    page.button(key=f"{run.run_id}/pause").click().run()
    newest = server.client().audit(run.run_id).entries[0]
    assert (newest.after, newest.reason) == ({"paused": True}, "data is late")
    assert page.text_input(key=f"{run.run_id}/pause/reason/input/1").value == ""
    run.send(1)
    page.run()
    assert page.button(key=f"{run.run_id}/pause").label == "Resume training now"
    page.button(key=f"{run.run_id}/pause").click().run()
    assert server.client().run(run.run_id).desired.settings.paused is False


def test_a_checkpoint_is_asked_for_even_while_somebody_else_changes_settings(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("kept")
    page = open_page(run.run_id)
    number(page, "gamma2").set_value(0.99).run()
    server.client().change(run.run_id, {"gamma1": 0.7}, revision=0)
    page.button(key=f"{run.run_id}/checkpoint").click().run()
    desired = server.client().run(run.run_id).desired
    assert (desired.revision, desired.settings.checkpoint_generation, desired.settings.gamma1) == (2, 1, 0.7)
    assert number(page, "gamma2").value == 0.99
    page.button(key=f"{run.run_id}/apply").click().run()
    assert "gamma1 0.6 → 0.7" in said(page)
    assert server.client().run(run.run_id).desired.revision == 2


def test_a_run_with_snapshots_is_rolled_back_after_a_word_about_which_one(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("brought back", recovery=RecoveryStatus([200, 300], 2, 100))
    page = open_page(run.run_id)
    assert "From about step 399 to the weights after step **300**. 2 automatic rollbacks are left" in said(page)
    page.text_input(key=f"{run.run_id}/roll_back/reason/input/0").set_value("a poisoned shard").run()
    page.button(key=f"{run.run_id}/roll_back").click().run()
    newest = server.client().audit(run.run_id).entries[0]
    assert (newest.after, newest.reason) == ({"rollback_generation": 1}, "a poisoned shard")
    other = open_page(start_run("never brought back").run_id)
    assert "Roll back now" not in {button.label for button in other.button}


def test_checkpoint_then_stop_is_one_change_whose_state_is_shown(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("saved and stopped")
    run.follows.clear()
    page = open_page(run.run_id)
    page.button(key=f"{run.run_id}/save_and_stop").click().run()
    assert server.client().audit(run.run_id).entries[0].after == {"checkpoint_generation": 1, "stop": True}
    page.run()
    assert "Asked to checkpoint, then stop (r1): pending." in said(page)
    run.follows.set()
    run.send(1)
    page.run()
    assert "The job was told to end at step 401" in said(page)
    run.finish(RunEnd.STOPPED)
    page.run()
    assert "The run ended (stopped) at step 400." in said(page)


def test_what_the_job_says_of_a_stop_is_shown_beside_it_and_on_the_page_of_the_change(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("never looks")
    run.remark = "The loop has not read agent.should_stop: if it trains on, end its process."
    page = open_page(run.run_id)
    page.button(key=f"{run.run_id}/stop").click().run()
    run.send(1)
    page.run()
    assert run.remark in [each.value.replace("\\", "") for each in page.warning]
    assert run.remark in [each.value.replace("\\", "") for each in page.caption], "of the newest change"
    assert "one that never does trains on until its process is ended" in said(page)
    changed = open_page(run.run_id, change="1")
    assert run.remark in [each.value.replace("\\", "") for each in changed.warning]


def test_what_does_more_than_it_seems_to_is_confirmed_in_words(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("to be confirmed")
    page = open_page(run.run_id)
    page.segmented_control(key=f"{run.run_id}/mode/input/0").set_value("off").run()
    assert "spikes and NaN reach the optimizer" in said(page)
    apply = page.button(key=f"{run.run_id}/apply")
    assert apply.label == "Apply anyway"
    apply.click().run()
    assert server.client().run(run.run_id).desired.settings.mode == "off"
    number(page, "gamma2").set_value(0.99).run()
    assert page.button(key=f"{run.run_id}/apply").label == "Apply"


def test_words_for_each_change_that_is_confirmed(start_run: StartRun, server: LocalStack) -> None:
    run = server.client().run(start_run("worded", steps=1).run_id)
    gone = structs.replace(run, health=Health.DISCONNECTED, state=RunState.STALLED)
    assert run_actions.warnings(run, {"gamma2": 0.9, "mode": "observe", "lr_scale": 0.1}) == []
    assert "no weight changes" in run_actions.warnings(run, {"lr_scale": 0})[0]
    assert "nobody receives this now" in run_actions.warnings(gone, {"gamma2": 0.9})[0]
    silent = structs.replace(gone, health=Health.STALLED)
    assert "takes no steps" in run_actions.warnings(silent, {"stop": True})[0]


def test_a_reset_says_what_follows(open_page: OpenPage, start_run: StartRun) -> None:
    run = start_run("to be reset")  # it spikes at 270 and is throttled since
    page = open_page(run.run_id)
    page.session_state[f"{run.run_id}/reset/open"] = True
    page.run()
    assert "Throttling ends at once" in said(page)
    assert "without this change: throttled for about" in said(page)


def test_a_job_whose_owner_did_not_allow_it_cannot_be_stopped(open_page: OpenPage, start_run: StartRun) -> None:
    run = start_run("not to be stopped", allow=["gamma2", "checkpoint_generation"])
    page = open_page(run.run_id)
    assert page.button(key=f"{run.run_id}/stop").disabled
    assert page.button(key=f"{run.run_id}/pause").disabled
    assert not page.button(key=f"{run.run_id}/checkpoint").disabled


def test_values_that_are_not_in_force_are_told_with_those_that_are(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("not in force")
    page = open_page(run.run_id)
    assert "Applied: the settings as registered." in said(page)
    run.refuses = "lr_scale is not allowed"
    server.client().change(run.run_id, {"lr_scale": 2.0, "spike_limit": 8.0}, revision=0)
    page.run()
    assert "running: **spike_limit off, lr_scale 1 (r0)**" in said(page)
    run.send(1)
    page.run()
    assert "running: **spike_limit off, lr_scale 1 (r0)**" in said(page)
    assert "rejected" in said(page)
    run.refuses = None
    server.client().change(run.run_id, {"lr_scale": 1.5}, revision=1)
    run.send(1)
    page.run()
    assert "running: **" not in said(page)
