"""Copies of what holds an agent: of a module for an average of weights, or pickled for another process or a file.

An agent belongs to the optimizers of one process. A copy made here is the same agent; one made elsewhere is inert, and
says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Self, TypeVar

_C = TypeVar("_C", bound=Callable[..., object])
_log = logging.getLogger("steadynorm")


class NotCopied:
    """Base of the agent: its copies."""

    run_id: Any

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Callable[[str], AgentCopy], tuple[str]]:
        return AgentCopy, (self.run_id,)


class AgentCopy:
    """What unpickling an agent makes. A loop may use it as if its agent had been closed; it warns once.

    Attributes:
        run_id: Of the run whose agent was pickled.
        closed: True: nothing is measured, stabilized or recorded.
        should_stop: False: it hears of no operator.
    """

    closed = True
    should_stop = False

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self._told = False

    def log(self, values: object = None, /, **scalars: object) -> None:
        """Nothing is recorded."""
        self._tell("log()")

    def describe(self, name: str, **description: object) -> None:
        """There is nothing to describe."""

    def note(self, text: str) -> None:
        """Nothing is recorded."""
        self._tell("note()")

    def on_checkpoint(self, callback: _C) -> _C:
        """Nobody asks this copy for a checkpoint."""
        return callback

    on_rollback = on_checkpoint

    def before_clip(self, optimizer: object = None) -> None:
        """Nothing is stabilized."""
        self._tell("before_clip()")

    def flush(self, timeout_s: float = 0.0) -> bool:
        """There is nothing to send."""
        return True

    def close(self, *, state: object = None, reason: str = "") -> None:
        """The run is another process's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name}: this is {self!r}" if not name.startswith("__") else name)

    def __repr__(self) -> str:
        return (
            f"an inert copy of the agent of run {self.__dict__.get('run_id')}, which was pickled: it measures, "
            "stabilizes and records nothing. Call steadynorm.attach() in this process to have an agent here."
        )

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            _log.warning("%s did nothing: this is %r", what, self)
