"""Whether something clips the gradients before the agent measures them: then the total norm sits at one ceiling."""

from __future__ import annotations

import logging
import math
from collections import deque
from statistics import median

__all__ = ["ClippingDetector"]

STEPS = 200
SHARE = 0.9
CLOSENESS = 1e-3  # relative

_log = logging.getLogger("steadynorm")


class ClippingDetector:
    """Looks at total norms before the stabilizer, every STEPS of them, and speaks once."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=STEPS)
        self._said = False

    def see(self, raw_norm: float) -> None:
        """The next step's. A step without a measured norm is left out."""
        if self._said or not math.isfinite(raw_norm) or raw_norm <= 0:
            return
        self._norms.append(raw_norm)
        if len(self._norms) < STEPS:
            return
        ceiling = median(self._norms)
        at_it = sum(abs(norm - ceiling) <= CLOSENESS * ceiling for norm in self._norms)
        if at_it < SHARE * STEPS:
            self._norms.clear()
            return
        self._said = True
        _log.warning(
            "the total gradient norm is %.4g at %d of the last %d steps, so something clips it before steadynorm sees "
            "it, and spikes are hidden. Call agent.before_clip() right before the clip, or take the clip out.",
            ceiling,
            at_it,
            STEPS,
        )
