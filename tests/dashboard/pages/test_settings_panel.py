"""The panel of a run's settings: each widget's value reaches the run, knobs of the loop's own too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.changes import PRESETS
from steadynorm_contract.knobs import Knob, KnobKind

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest
    from streamlit.testing.v1.element_tree import NumberInput
    from tests.support.dashboard import OpenPage, StartRun


def number(app: AppTest, label: str) -> NumberInput:
    """The number that stands there now: a new one takes its place where something else has set the value."""
    return next(one for one in app.number_input if one.label == label)


def test_every_setting_of_the_panel_reaches_the_run(
    open_page: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    knobs = [
        Knob(name="entropy_coef", default=0.01, low=0, high=0.1, sentence="<b>more</b> exploration"),
        Knob(name="batch", default=8, low=1, high=64, kind=KnobKind.INTEGER),
        Knob(name="weight_decay", default=0.1, low=0, high=1, own=True),
    ]
    run = start_run("all settings", knobs=knobs)
    page = open_page(run.run_id)
    page.segmented_control(key=f"{run.run_id}/mode/input/0").set_value("observe")
    page.segmented_control(key=f"{run.run_id}/transfer/input/0").set_value("plain")
    number(page, "gamma1").set_value(0.9973)
    page.number_input(key=f"{run.run_id}/lr_scale/input/0").set_value(0.5)
    page.number_input(key=f"{run.run_id}/eps/input/0").set_value(1e-9)
    page.toggle(key=f"{run.run_id}/spike_limit/on/input/0").set_value(True).run()
    assert page.number_input(key=f"{run.run_id}/spike_limit/input/0").value == PRESETS["robust"]["spike_limit"] == 3.0
    page.number_input(key=f"{run.run_id}/spike_limit/input/0").set_value(4.0)
    page.toggle(key=f"{run.run_id}/spike_fade/input/0").set_value(True)
    page.toggle(key=f"{run.run_id}/clip_norm/auto/input/0").set_value(True)
    for name in ("lr", "knob.weight_decay"):
        page.toggle(key=f"{run.run_id}/{name}/on/input/0").set_value(True)
    page.number_input(key=f"{run.run_id}/detail_every/input/0").set_value(2)
    page.slider(key=f"{run.run_id}/knob.batch/slider/input/0").set_value(16)
    coefficient = page.number_input(key=f"{run.run_id}/knob.entropy_coef/input/0")
    assert coefficient.label == "knob.entropy_coef"  # which screen readers say
    coefficient.set_value(0.2).run()
    assert "must be in [0, 0.1]: got 0.2" in "".join(error.value for error in page.error).replace("\\", "")
    assert page.button(key=f"{run.run_id}/apply").disabled
    page.slider(key=f"{run.run_id}/knob.entropy_coef/slider/input/1").set_value(0.02).run()
    page.select_slider(key=f"{run.run_id}/gamma2/slider/0").set_value(0.98).run()
    page.button(key=f"{run.run_id}/apply").click().run()
    assert not page.error
    desired = server.client().run(run.run_id).desired.settings
    assert (desired.mode, desired.transfer, desired.gamma1, desired.gamma2) == ("observe", "plain", 0.9973, 0.98)
    assert (desired.lr_scale, desired.eps, desired.spike_limit, desired.spike_fade) == (0.5, 1e-9, 4.0, True)
    assert (desired.clip_norm, desired.lr, desired.detail_every) == ("auto", 1e-3, 2)
    assert desired.knobs == {"batch": 16.0, "entropy_coef": 0.02, "weight_decay": 0.1}
