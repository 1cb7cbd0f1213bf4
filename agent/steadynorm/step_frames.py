"""Hooks of a step as torch's compiler sees them, and the frame of the step whose hook runs."""

from __future__ import annotations

from collections.abc import Callable
from inspect import currentframe
from types import FrameType
from typing import Any, TypeVar

import torch

_REASON = "steadynorm measures gradients between graphs: compile the step without fullgraph=True"

_SKIPPED = ("steadynorm.hooks", "steadynorm.step_frames", "torch._dynamo")

_H = TypeVar("_H", bound=Callable[..., Any])


def outside_graphs(hook: _H) -> _H:
    """`hook`, which torch.compile does not look into: it breaks the graph there, or says why it cannot."""
    try:
        hidden: _H = torch.compiler.disable(hook, reason=_REASON)
    except TypeError:  # before torch 2.7 it takes no reason
        hidden = torch.compiler.disable(hook)
    return hidden


def calling_frame() -> FrameType | None:
    """The frame of the `step()` whose hook calls this: the agent's own and torch.compiler's are skipped."""
    frame = currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_SKIPPED):
        frame = frame.f_back
    return frame


def is_caller(frame: FrameType) -> bool:
    """Whether `frame` is among those that lead here."""
    caller = currentframe()
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is not None
