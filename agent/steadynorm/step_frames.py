"""Hooks of a step as torch's compiler sees them, and the frame of the step whose hook runs."""

from __future__ import annotations

from collections.abc import Callable
from inspect import currentframe
from types import FrameType
from typing import Any

import torch
from torch.compiler import is_compiling

try:
    from torch._C._dynamo.eval_frame import get_eval_frame_callback
except ImportError:  # it may be called otherwise in another torch
    get_eval_frame_callback = None

_REASON = "steadynorm measures gradients between graphs: compile the step without fullgraph=True"

_SKIPPED = ("steadynorm.hooks", "steadynorm.step_frames", "torch._dynamo")


def outside_graphs(hook: Callable[..., Any]) -> Callable[..., Any]:
    """`hook`, which torch.compile does not look into: it breaks the graph there, or says why it cannot.

    Hiding costs more than the rest of a small hook, so it is left out where nothing is compiled.
    """
    try:
        hidden = torch.compiler.disable(hook, reason=_REASON)
    except TypeError:  # before torch 2.7 it takes no reason
        hidden = torch.compiler.disable(hook)
    callback = get_eval_frame_callback
    if callback is None:
        return hidden

    def run(*args: Any) -> Any:
        # The compiler's view of this function, and that of a call from compiled code, which it would look into.
        if is_compiling() or callback() is not None:
            return hidden(*args)
        return hook(*args)

    return run


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
