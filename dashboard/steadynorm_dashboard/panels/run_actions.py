"""Buttons for actions on the training job: pause, resume, checkpoint, reset, stop; each confirmed with a reason.

Also which changes are confirmed because they do more than they seem to, and in which words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from steadynorm_contract.runs import Health, RunDetail
from steadynorm_contract.settings import Mode, Settings, merge
from steadynorm_contract.words import counted
from steadynorm_dashboard.components import inputs
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.formatting import escaping, numbers
from steadynorm_dashboard.panels import from_now_on

Send = Callable[[str, str], None]
"""send(run id, name of the action): called when an action is confirmed."""


@dataclass(frozen=True, slots=True)
class Action:
    """One button. `changes` gives the settings change to send, from the newest settings. ends: it ends the training.

    short: the label where the buttons stand in one row; None: `label`.
    """

    name: str
    settings: tuple[str, ...]
    label: str
    icon: str
    help: str
    changes: Callable[[Settings], Mapping[str, object]]
    ends: bool = False
    short: str | None = None


_PAUSE = Action(
    "pause",
    ("paused",),
    "Pause training",
    ":material/pause_circle:",
    "Every rank waits between two steps until the run is resumed. The job keeps its GPUs.",
    lambda now: {"paused": True},
    short="Pause",
)
_RESUME = Action(
    "pause",
    ("paused",),
    "Resume training",
    ":material/play_circle:",
    "The job continues from the step at which it was paused.",
    lambda now: {"paused": False},
    short="Resume",
)
_CHECKPOINT = Action(
    "checkpoint",
    ("checkpoint_generation",),
    "Checkpoint",
    ":material/save:",
    "The job saves a checkpoint between two steps, with its `on_checkpoint` function.",
    lambda now: {"checkpoint_generation": now.checkpoint_generation + 1},
)
_RESET = Action(
    "reset",
    ("reset_generation",),
    "Reset statistics",
    ":material/restart_alt:",
    "Discards the statistics of all norms so far, once. Use it when an old spike throttles the run.",
    lambda now: {"reset_generation": now.reset_generation + 1},
    short="Reset",
)
_ROLL_BACK = Action(
    "roll_back",
    ("rollback_generation",),
    "Roll back",
    ":material/undo:",
    "All ranks take back the weights and the optimizer's state of the newest good snapshot, after their next step, and "
    "go on with the data that comes next. The step count goes on too.",
    lambda now: {"rollback_generation": now.rollback_generation + 1, "rollback_to": None},
)
_SAVE_AND_STOP = Action(
    "save_and_stop",
    ("checkpoint_generation", "stop"),
    "Checkpoint, then stop",
    ":material/save:",
    "One change: between two steps the job saves a checkpoint with its `on_checkpoint` function, then its loop ends. A "
    "job without such a function, or whose function fails, ends without a checkpoint, which is then told above.",
    lambda now: {"checkpoint_generation": now.checkpoint_generation + 1, "stop": True},
    ends=True,
)
_STOP = Action(
    "stop",
    ("stop",),
    "Stop without a checkpoint",
    ":material/stop_circle:",
    "Asks the training loop to end, which it does where it reads `agent.should_stop`. What was trained since the last "
    "checkpoint is lost, unless the script saves one at its end. The dashboard cannot start a stopped job again.",
    lambda now: {"stop": True},
    ends=True,
)


def actions(now: Settings) -> dict[str, Action]:
    """The actions by name, in order, for a run with these settings."""
    offered = (_RESUME if now.paused else _PAUSE, _CHECKPOINT, _RESET, _ROLL_BACK, _SAVE_AND_STOP, _STOP)
    return {action.name: action for action in offered}


def warnings(run: RunDetail, changes: Mapping[str, object]) -> list[str]:
    """What will happen, where a change does more or less than it seems to. Empty: no confirmation. Markdown."""
    said = []
    if changes.get("mode") == Mode.OFF:
        said.append(
            "**mode off**: nothing is measured or recorded any more, and spikes and NaN reach the optimizer. To watch "
            "without acting, choose observe."
        )
    scale = changes.get("lr_scale")
    if isinstance(scale, int | float) and scale == 0:
        said.append(
            "**lr_scale 0**: steps go on and no weight changes, until it is set again. To wait, pause the training."
        )
    if run.health is Health.DISCONNECTED and run.state.is_live:
        said.append(
            f"**The run is disconnected** since step {run.step:,}: nobody receives this now. If its process has ended, "
            "nothing will happen. If it comes back, it applies this at its next step."
        )
    elif run.health is Health.STALLED and run.state.is_live and not run.applied.settings.paused:
        said.append(
            f"**The run takes no steps** since step {run.step:,}: its agent receives this, and applies it once the "
            "training goes on."
        )
    return said


def buttons(run: RunDetail, now: Settings, is_locked: Callable[[str], bool], send: Send) -> None:
    """Draw the buttons. Each opens a popover that says what will happen, takes a reason, and has a button to confirm.

    Those that end the training are apart, behind a red button. is_locked: whether the setting of that name cannot be
    changed by this visitor or in this job.
    """
    offered = actions(now).values()
    ending = [action for action in offered if action.ends]
    with st.container(horizontal=True, horizontal_alignment="distribute", gap="medium"):
        with st.container(horizontal=True, gap="xsmall", width="content"):
            for action in offered:
                if action.ends or (action is _ROLL_BACK and not _snapshots(run)):
                    continue
                locked = any(map(is_locked, action.settings))
                with _opened(run.run_id, action.name, action.short or action.label, action.icon, locked, action.label):
                    _body(run, action, locked, send)
        with (
            st.container(key="run-stop", width="content"),
            _opened(run.run_id, "end", ":red[Stop]", ":material/stop_circle:", is_locked("stop"), "Stop training"),
        ):
            for at, action in enumerate(ending):
                if at:
                    st.divider()
                _body(run, action, any(map(is_locked, action.settings)), send)
    st.fragment(_ending_state, run_every=2)(run.run_id)


def _opened(run_id: str, name: str, label: str, icon: str, locked: bool, what: str) -> DeltaGenerator:
    return st.popover(label, icon=icon, key=f"{run_id}/{name}/open", on_change="rerun", disabled=locked, help=what)


def _body(run: RunDetail, action: Action, locked: bool, send: Send) -> None:
    """What the action does, and the button to confirm it."""
    key = f"{run.run_id}/{action.name}"
    st.markdown(action.help)
    if action is _RESET and st.session_state.get(f"{key}/open"):
        was = run.applied.settings
        from_now_on.panel(run, merge(was, action.changes(was)), key=f"{key}/outlook")
    if action is _ROLL_BACK:
        budget = run.recovery.budget_left if run.recovery is not None else 0
        st.markdown(
            f"From about step {run.step:,} to the weights after step **{_snapshots(run)[-1]:,}**. "
            f"{counted(budget, 'automatic rollback is', 'automatic rollbacks are')} left; this is none of them."
        )
    for sentence in warnings(run, {}):
        st.warning(sentence, icon=":material/warning:")
    reason(f"{key}/reason", locked)
    label = f":red[{action.label} now]" if action.ends else f"{action.label} now"
    st.button(
        label,
        key=key,
        type="secondary" if action.ends else "primary",
        icon=action.icon,
        disabled=locked,
        on_click=_confirmed,
        args=(run.run_id, action.name, send),
    )


def _snapshots(run: RunDetail) -> list[int]:
    """Steps of those that it can be rolled back to."""
    return [] if run.recovery is None else run.recovery.snapshots


def _ending_state(run_id: str) -> None:
    """How far a stop that was asked for has come."""
    run, _ = queries.fetch(f"{run_id}/run", lambda client: client.run(run_id))
    if run is None:
        return
    desired, applied = run.desired.settings, run.applied
    if not desired.stop:
        return
    saves = desired.checkpoint_generation > applied.settings.checkpoint_generation
    first = "checkpoint, then stop" if saves else "stop"
    if not applied.settings.stop:
        st.info(f"Asked to {first} (r{run.desired.revision}): {run.desired.state.value}.", icon=":material/schedule:")
    elif run.state.is_live:
        st.info(
            f"The job was told to end at step {applied.step:,}, after the checkpoint if one was asked for. It ends "
            "when its loop reads `agent.should_stop`; one that never does trains on until its process is ended.",
            icon=":material/hourglass_top:",
        )
        if run.desired.reason:
            st.warning(escaping.markdown(run.desired.reason, 1000), icon=":material/warning:")
    else:
        st.info(f"The run ended ({run.state.value}) at step {numbers.number(run.step)}.", icon=":material/check:")


def confirmed(run: RunDetail, changes: Mapping[str, object], label: str, button: Callable[[str], object]) -> None:
    """Draw `button(label)`, which sends `changes`; where they need it, behind a popover that says what will happen."""
    said = warnings(run, changes) if changes else []
    if not said:
        button(label)
        return
    with st.popover(f"{label} …", key=f"{run.run_id}/{label}/confirm", type="primary", width="stretch"):
        for sentence in said:
            st.warning(sentence, icon=":material/warning:")
        button(f"{label} anyway")


def reason(key: str, disabled: bool) -> None:
    """The input for the reason of a change."""
    st.text_input(
        "Reason",
        value=inputs.value(key, ""),
        key=inputs.key(key),
        placeholder="reason, recorded in the audit log",
        max_chars=500,
        label_visibility="collapsed",
        disabled=disabled,
    )


def _confirmed(run_id: str, name: str, send: Send) -> None:
    for opened in (name, "end"):
        if f"{run_id}/{opened}/open" in st.session_state:
            st.session_state[f"{run_id}/{opened}/open"] = False
    send(run_id, name)
