"""TODO from steadynorm.hooks: Faults."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm_contract.settings import Mode

__all__ = ["ErrorState"]

_log = logging.getLogger(__name__)


class ErrorState:
    """Internal exceptions. The first one turns the agent off; `count` goes to the server.

    Where ranks must stay equal (`together`) nobody turns off alone: all do, at the boundary where they `agree()`.
    """

    def __init__(self, stabilizers: Sequence[GradientStabilizer], tell: Callable[[], None]) -> None:
        self.count = 0
        self.off = False  # whether gradients only pass
        self.together = False
        self._stabilizers = stabilizers
        self._tell = tell

    def caught(self) -> None:
        """Call in an `except` block."""
        self.count += 1
        if self.count > 1:
            return
        if self.together:
            _log.exception(
                "the agent met an internal error on this rank, and all ranks turn it off soon; training goes on. "
                "Please report this:"
            )
            return
        _log.exception("the agent met an internal error and turned itself off; training goes on. Please report this:")
        self._turn_off()
        self._tell()

    def agree(self, ranks: Sequence[int]) -> None:
        """All ranks, at one boundary: the agents of `ranks` met internal errors."""
        _log.error(
            "the agent met an internal error on rank %s, so it is turned off on all ranks; training goes on. If "
            "gradients could not be scaled there, replicas differ now: go back to a checkpoint.",
            ", ".join(map(str, ranks)),
        )
        self._turn_off()
        for stabilizer in self._stabilizers:
            stabilizer.retire()
        self._tell()

    def _turn_off(self) -> None:
        self.off = True
        for stabilizer in self._stabilizers:
            try:
                stabilizer.configure(mode=Mode.OFF)
            except Exception:
                _log.debug("a stabilizer could not be turned off", exc_info=True)
