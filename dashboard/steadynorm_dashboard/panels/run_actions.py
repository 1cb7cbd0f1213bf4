"""Buttons for actions on the training job: pause, resume, checkpoint, reset, stop; each confirmed with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st

from steadynorm_contract.settings import Settings

Send = Callable[[str, str], None]
"""send(run id, name of the action): called when an action is confirmed."""


@dataclass(frozen=True, slots=True)
class Action:
    """One button. `changes` gives the settings change to send, from the newest settings."""

    name: str
    setting: str
    label: str
    icon: str
    help: str
    changes: Callable[[Settings], Mapping[str, object]]


_PAUSE = Action(
    "pause",
    "paused",
    "Pause training",
    ":material/pause_circle:",
    "Every rank waits between two steps until the run is resumed. The job keeps its GPUs.",
    lambda now: {"paused": True},
)
_RESUME = Action(
    "pause",
    "paused",
    "Resume training",
    ":material/play_circle:",
    "The job continues from the step at which it was paused.",
    lambda now: {"paused": False},
)
_CHECKPOINT = Action(
    "checkpoint",
    "checkpoint_generation",
    "Checkpoint",
    ":material/save:",
    "The job saves a checkpoint between two steps, with its `on_checkpoint` function.",
    lambda now: {"checkpoint_generation": now.checkpoint_generation + 1},
)
_RESET = Action(
    "reset",
    "reset_generation",
    "Reset statistics",
    ":material/restart_alt:",
    "Discards the statistics of all norms so far. Use it when an old spike throttles the run.",
    lambda now: {"reset_generation": now.reset_generation + 1},
)
_STOP = Action(
    "stop",
    "stop",
    "Stop training",
    ":material/stop_circle:",
    "Ends the training loop. Request a checkpoint first: the dashboard cannot start a stopped job again.",
    lambda now: {"stop": True},
)


def actions(now: Settings) -> dict[str, Action]:
    """The buttons by name, in order, for a run with these settings."""
    offered = (_RESUME if now.paused else _PAUSE, _CHECKPOINT, _RESET, _STOP)
    return {action.name: action for action in offered}


def buttons(run_id: str, now: Settings, is_locked: Callable[[str], bool], send: Send) -> None:
    """Draw the buttons. Each opens a popover that says what will happen, takes a reason, and has a button to confirm.

    is_locked: whether the setting of that name cannot be changed by this visitor or in this job.
    """
    with st.container(horizontal=True, gap="xsmall"):
        for action in actions(now).values():
            locked = is_locked(action.setting)
            with st.popover(
                action.label,
                icon=action.icon,
                key=f"{run_id}/{action.name}/open",
                on_change="rerun",
                disabled=locked,
            ):
                st.markdown(action.help)
                st.text_input(
                    "Reason",
                    key=f"{run_id}/{action.name}/reason",
                    placeholder="reason, recorded in the audit log",
                    max_chars=500,
                    label_visibility="collapsed",
                    disabled=locked,
                )
                st.button(
                    f"{action.label} now",
                    key=f"{run_id}/{action.name}",
                    type="primary",
                    disabled=locked,
                    on_click=_confirmed,
                    args=(run_id, action.name, send),
                )


def _confirmed(run_id: str, name: str, send: Send) -> None:
    st.session_state[f"{run_id}/{name}/open"] = False
    send(run_id, name)
