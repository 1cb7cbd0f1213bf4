"""What is said of a change that is applied, where nothing or harm may come of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch.optim import Optimizer

from steadynorm_contract.settings import Mode, Settings

_CHANGING = (Mode.CLIP, Mode.STABILIZE)


def compares_gradients(optimizer: Optimizer) -> bool:
    """Whether it keeps gradients between steps and compares them, as LBFGS does: by its type or by its options."""
    if any("lbfgs" in kind.__name__.lower() for kind in type(optimizer).__mro__):
        return True
    return any({"line_search_fn", "max_eval"} & group.keys() for group in optimizer.param_groups)


def of_mode(before: Settings, after: Settings, optimizers: Iterable[Optimizer]) -> str:
    """Of a mode that an optimizer may not bear; empty where there is nothing to say. At attach() it is `observe`."""
    if after.mode not in _CHANGING or before.mode in _CHANGING:
        return ""
    comparing = next((type(each).__name__ for each in optimizers if compares_gradients(each)), None)
    if comparing is None:
        return ""
    return (
        f"{comparing} compares gradients of several steps, and mode={after.mode} scales them differently from step to "
        "step: the training may diverge. Set mode=observe if its loss rises."
    )


def of_stop(before: Settings, after: Settings, *, is_read: bool) -> str:
    """Of a stop that the loop does not look for; empty where there is nothing to say."""
    if is_read or before.stop or not after.stop:
        return ""
    return "The loop has not read agent.should_stop in any step so far. If it trains on, end its process."


def of_knobs(unread: Sequence[str], steps: int) -> str:
    """Of knobs that were changed and that no step reads; empty where there are none.

    A loop that keeps a copy of the value, or a worker process that has one, does not see it change.
    """
    if not unread:
        return ""
    which = ", ".join(f"knob.{name}" for name in unread)
    return (
        f"The loop has not read {which} in the last {steps} steps: a change takes effect where it reads the knob's "
        ".value next, if at all."
    )
