"""Internal errors of the agent: the first one turns it off, and training continues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from steadynorm.stabilizer.stabilizer import GradientStabilizer
from steadynorm_contract.settings import Mode
from steadynorm_contract.words import counted

_log = logging.getLogger("steadynorm")


class ErrorState:
    """Counts internal exceptions; the first one turns the agent off.

    all_ranks: ranks must stay equal, so none turns off alone: all do, at one step boundary, by `disable_all_ranks()`.
    """

    def __init__(self, stabilizers: Sequence[GradientStabilizer], *, all_ranks: bool = False) -> None:
        self.count = 0
        self.off = False  # whether gradients only pass through
        self.on_disabled: Callable[[], None] = lambda: None
        self._stabilizers = stabilizers
        self._all_ranks = all_ranks

    def record(self) -> None:
        """Call in an `except` block."""
        self.count += 1
        if self.count > 1:
            return
        self._tell_what_moved()
        if self._all_ranks:
            _log.exception(
                "the agent met an internal error on this rank; all ranks will turn it off at the next exchange. "
                "Training continues. Please report this:"
            )
            return
        _log.exception("the agent met an internal error and turned itself off; training continues. Please report this:")
        self._turn_off()

    def attempt(self, part: Callable[[], object]) -> None:
        """Call it; an exception is recorded."""
        try:
            part()
        except Exception:
            self.record()

    def disable_all_ranks(self, failed: Sequence[int], why: str = "") -> None:
        """Called on all ranks at the same boundary: the agents of the ranks `failed` met internal errors.

        why: another reason.
        """
        ranks = ", ".join(map(str, failed))
        if why:
            _log.error("rank %s %s, so the agent is turned off on all ranks; training continues.", ranks, why)
        else:
            _log.error(
                "the agent met an internal error on rank %s, so it is turned off on all ranks; training continues. If "
                "gradients could not be scaled there, replicas differ now: restart from a checkpoint.",
                ranks,
            )
        self._turn_off()
        for stabilizer in self._stabilizers:
            stabilizer.stop_measuring()

    def _tell_what_moved(self) -> None:
        """The usual cause that is not the agent's."""
        moved = [
            (name, parameter.device, stabilizer.device)
            for stabilizer in self._stabilizers
            for at, (name, parameter) in enumerate(zip(stabilizer.names, stabilizer.parameters, strict=False))
            if parameter.device != stabilizer.device and at not in stabilizer.released
        ]
        if moved:
            name, device, before = moved[0]
            _log.error(
                "%s on another device than at attach(), such as %s on %s, then on %s: call attach() "
                "after model.to(device). That is the likely cause of the following.",
                *(counted(len(moved), "parameter is", "parameters are"), name, device, before),
            )

    def _turn_off(self) -> None:
        self.off = True
        for stabilizer in self._stabilizers:
            try:
                stabilizer.configure(mode=Mode.OFF)
            except Exception:
                _log.debug("a stabilizer could not be turned off", exc_info=True)
        self.on_disabled()
