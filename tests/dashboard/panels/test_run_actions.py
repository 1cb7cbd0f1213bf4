"""What the settings panel does to the training itself, and what it says of changes that are not in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from streamlit.testing.v1 import AppTest

from steadynorm_cli.local_stack import LocalStack

if TYPE_CHECKING:
    from streamlit.testing.v1.element_tree import NumberInput
    from tests.support.dashboard import OpenPage, StartRun


@pytest.fixture(scope="module")
def server(plain_server: LocalStack) -> LocalStack:
    """These tests run the app in their own process."""
    return plain_server


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
    assert {"Pause training now", "Pause charts", "Checkpoint now", "Stop training now"} <= labels
    page.text_input(key=f"{run.run_id}/pause/reason").set_value("data is late").run()
    page.button(key=f"{run.run_id}/pause").click().run()
    newest = server.client().audit(run.run_id).entries[0]
    assert (newest.after, newest.reason) == ({"paused": True}, "data is late")
    assert page.text_input(key=f"{run.run_id}/pause/reason").value == ""
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
