"""What an operator does to the training: pause, resume, checkpoint, reset, stop; each confirmed with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import streamlit as st

from steadynorm_contract.settings import Settings

__all__ = ["Action", "Send", "actions", "buttons"]

Send = Callable[[str, str], None]
"""send(the run's id, the action's name): what a confirmed button calls."""


@dataclass(frozen=True, slots=True)
class Action:
    """One button. `changes` says what it asks for, given the newest settings."""

    name: str
    setting: str
    label: str
    icon: str
    words: str
    changes: Callable[[Settings], Mapping[str, object]]


_PAUSE = Action(
    "pause",
    "paused",
    "Pause training",
    ":material/pause_circle:",
    "The job waits at its next boundary between two steps, on every rank, until it is resumed. It keeps its GPUs.",
    lambda now: {"paused": True},
)
_RESUME = Action(
    "pause",
    "paused",
    "Resume training",
    ":material/play_circle:",
    "The job goes on where it waits.",
    lambda now: {"paused": False},
)
_CHECKPOINT = Action(
    "checkpoint",
    "checkpoint_generation",
    "Checkpoint",
    ":material/save:",
    "The job is asked to save a checkpoint between two steps, by its function marked `on_checkpoint`.",
    lambda now: {"checkpoint_generation": now.checkpoint_generation + 1},
)
_RESET = Action(
    "reset",
    "reset_generation",
    "Reset statistics",
    ":material/restart_alt:",
    "Forget the norms seen so far, at once. The way out when an old spike throttles the run.",
    lambda now: {"reset_generation": now.reset_generation + 1},
)
_STOP = Action(
    "stop",
    "stop",
    "Stop training",
    ":material/stop_circle:",
    "The job's loop is told to end. Ask for a checkpoint first: a stopped job is not started again from here.",
    lambda now: {"stop": True},
)


def actions(now: Settings) -> dict[str, Action]:
    """The buttons by name, in their order, of a run with these settings."""
    offered = (_RESUME if now.paused else _PAUSE, _CHECKPOINT, _RESET, _STOP)
    return {action.name: action for action in offered}


def buttons(run_id: str, now: Settings, closed: Callable[[str], bool], send: Send) -> None:
    """Draw them; each opens a box that says what will happen, takes a reason, and has the button that does it.

    closed: whether the setting of that name cannot be changed by this visitor, or in this job.
    """
    with st.container(horizontal=True, gap="xsmall"):
        for action in actions(now).values():
            locked = closed(action.setting)
            with st.popover(
                action.label,
                icon=action.icon,
                key=f"{run_id}/{action.name}/asked",
                on_change="rerun",
                disabled=locked,
            ):
                st.markdown(action.words)
                st.text_input(
                    "Reason",
                    key=f"{run_id}/{action.name}/reason",
                    placeholder="why, for the audit list",
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
    st.session_state[f"{run_id}/{name}/asked"] = False
    send(run_id, name)
