"""How a figure is drawn, whatever it shows: smoothing, logarithmic axes, bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steadynorm_contract.signals import Signal

SMOOTHED = frozenset({"loss", "raw_norm", "stabilized_norm", "steps_per_s"})
"""The signals that smoothing applies to. Of the others charts show the worst value of each bucket, which it would hide,
what is an average already, or what is set."""


@dataclass(frozen=True, slots=True)
class View:
    """A visitor's choice.

    smoothing: decay of the moving average from one drawn point to the next, 0 <= smoothing < 1; 0: none. log: the
    signals whose panels have a logarithmic axis; None: as the catalogue of signals says. bands: whether each bucket's
    smallest and largest values are drawn. pinned: the signals whose panels are on top.
    """

    smoothing: float = 0.0
    log: frozenset[str] | None = None
    bands: bool = True
    pinned: tuple[str, ...] = ()

    def is_log(self, of: Signal) -> bool:
        """Whether the panel of the signal has a logarithmic axis."""
        return of.scale == "log" if self.log is None else of.name in self.log

    def smooths(self, of: Signal) -> bool:
        """Whether the signal is drawn as a moving average, with its own line faint behind it."""
        return self.smoothing > 0 and of.name in SMOOTHED


AS_RECORDED = View()


def moving_average(values: Sequence[float | None], decay: float, *, log: bool = False) -> list[float | None]:
    """The exponential moving average of the values so far, corrected for its start at zero; None where there is none.

    log: of the logarithms, so that one spike does not outweigh a hundred calm steps on a logarithmic axis.
    """
    total = weight = 0.0
    found: list[float | None] = []
    for value in values:
        if value is None or (log and value <= 0):
            found.append(None)
            continue
        total = decay * total + (1 - decay) * (math.log(value) if log else value)
        weight = decay * weight + (1 - decay)
        found.append(math.exp(total / weight) if log else total / weight)
    return found
