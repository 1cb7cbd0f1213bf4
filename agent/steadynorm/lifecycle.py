"""What an exception, or the end of the process, says about how a run ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from steadynorm_contract.telemetry import RunEnd

NOT_CLOSED = "whether the training was completed, or failed with an exception that was caught, is not known"


def end_state(error: BaseException | None) -> tuple[RunEnd | None, str]:
    """State and reason of a run that ended with `error`. The state is None without one: the agent decides."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return None, ""
    if isinstance(error, KeyboardInterrupt):
        return RunEnd.STOPPED, "interrupted from the keyboard"
    return RunEnd.FAILED, described(error).rstrip(": ")


def end_state_at_exit() -> tuple[RunEnd | None, str]:
    """State and reason of a run whose process is about to exit.

    The interpreter leaves the exception that ended a program in `sys.last_value`. In an interactive session that is any
    earlier error at the prompt, and is ignored. `sys.exit(1)` leaves no trace either, and an exception that the program
    caught: use the agent as a context manager to have them reported.
    """
    interactive = hasattr(sys, "ps1") or bool(sys.flags.interactive)
    state, reason = end_state(None if interactive else getattr(sys, "last_value", None))
    return state, reason or f"the process ended without agent.close(): {NOT_CLOSED}"


def described(error: BaseException) -> str:
    """Type and text of an exception of others, which may raise another one where it is asked for its text."""
    return f"{type(error).__name__}: {readable(error)}"


def readable(thing: object, how: Callable[[object], str] = str) -> str:
    """The text, or with `how=repr` the repr, of an object of others, which may raise where it is asked for it."""
    try:
        return how(thing)
    except Exception:
        return "its text cannot be read" if how is str else f"<{type(thing).__name__}, whose repr cannot be read>"


def run_all(parts: Sequence[Callable[[], object]]) -> None:
    """Call all of them in this order, also where one raises, or is interrupted from the keyboard."""
    with ExitStack() as left:
        for part in reversed(parts):
            left.callback(part)
