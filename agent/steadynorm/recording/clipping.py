"""Detects that gradients are clipped before the agent measures them: then the total norm stays at one value."""

from __future__ import annotations

import logging
import math
from collections import deque
from statistics import median

STEPS = 200
SHARE = 0.9
CLOSENESS = 1e-3  # relative

_log = logging.getLogger("steadynorm")


class ClippingDetector:
    """Checks the total norms before stabilization, STEPS at a time, and warns once."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=STEPS)
        self._warned = False

    def observe(self, raw_norm: float) -> None:
        """The next step's norm. A step without a measured norm is ignored."""
        if self._warned or not math.isfinite(raw_norm) or raw_norm <= 0:
            return
        self._norms.append(raw_norm)
        if len(self._norms) < STEPS:
            return
        ceiling = median(self._norms)
        at_it = sum(abs(norm - ceiling) <= CLOSENESS * ceiling for norm in self._norms)
        if at_it < SHARE * STEPS:
            self._norms.clear()
            return
        self._warned = True
        _log.warning(
            "the total gradient norm is %.4g at %d of the last %d steps: gradients are clipped before steadynorm "
            "measures them, which hides spikes. Call agent.before_clip() right before clipping, or do not clip.",
            ceiling,
            at_it,
            STEPS,
        )
