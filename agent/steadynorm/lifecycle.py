"""How agents end without being closed: at exit, in forked children; and what an exception says about a run's end."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from steadynorm_contract.telemetry import RunEnd

if TYPE_CHECKING:
    from steadynorm.agent import Agent

__all__ = ["agent_of", "end_at_exit", "end_of", "forget", "watch"]

_agents: weakref.WeakSet[Agent] = weakref.WeakSet()
_attached: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Agent]] = weakref.WeakKeyDictionary()


def watch(agent: Agent, optimizers: Sequence[Optimizer]) -> None:
    """Close `agent` at exit, and make it inert in forked children."""
    _agents.add(agent)
    for optimizer in optimizers:
        _attached[optimizer] = weakref.ref(agent)


def agent_of(optimizer: Optimizer) -> Agent | None:
    """The agent that is attached to `optimizer`."""
    return _attached[optimizer]() if optimizer in _attached else None


def forget(optimizers: Sequence[Optimizer]) -> None:
    """Another agent may have these optimizers."""
    for optimizer in optimizers:
        _attached.pop(optimizer, None)


def end_of(error: BaseException | None) -> tuple[RunEnd | None, str]:
    """How a run ended that ended with `error`. None: with none, so the agent decides."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return None, ""
    if isinstance(error, KeyboardInterrupt):
        return RunEnd.STOPPED, "interrupted from the keyboard"
    return RunEnd.FAILED, f"{type(error).__name__}: {error}".rstrip(": ")


def end_at_exit() -> tuple[RunEnd | None, str]:
    """How a run ended whose process is about to.

    The interpreter leaves the exception that ended a program in `sys.last_value`. In an interactive session that is any
    earlier mistake at the prompt, and says nothing. sys.exit(1) leaves no trace either: use the agent as a context
    manager to have it reported.
    """
    interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
    return end_of(None if interactive else getattr(sys, "last_value", None))


def _close_all() -> None:
    state, reason = end_at_exit()
    for agent in list(_agents):
        agent.close(state=state, reason=reason)


def _make_children_inert() -> None:
    for agent in list(_agents):
        agent._become_inert()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_make_children_inert)
