"""What the total gradient norms of a run's steps tell of its loop, seen where they are collected: no step waits."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

CLIP_STEPS = 200
CLIP_SHARE = 0.9
CLIP_CLOSENESS = 1e-3  # relative
ZERO_STEPS = 100


class NormChecks:
    """Each finding is made once."""

    def __init__(self) -> None:
        self._checks: list[ClippedBefore | GradientsEnded] = [ClippedBefore(), GradientsEnded()]

    def observe(self, step: int, raw_norm: float) -> list[tuple[str, str]]:
        """The next step, with its norm before stabilization. Returns names and sentences of what was found now."""
        found = [(check, said) for check in self._checks if (said := check.observe(step, raw_norm))]
        self._checks = [check for check in self._checks if all(check is not each for each, _ in found)]
        return [(check.name, said) for check, said in found]


class ClippedBefore:
    """Gradients are clipped before the agent measures them: then the total norm stays at one value."""

    name = "clipped_before"

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=CLIP_STEPS)

    def observe(self, step: int, raw_norm: float) -> str:
        """Norms are looked at CLIP_STEPS at a time. A step without a measured norm is ignored."""
        if not math.isfinite(raw_norm) or raw_norm <= 0:
            return ""
        self._norms.append(raw_norm)
        if len(self._norms) < CLIP_STEPS:
            return ""
        ceiling = median(self._norms)
        at_it = sum(abs(norm - ceiling) <= CLIP_CLOSENESS * ceiling for norm in self._norms)
        if at_it < CLIP_SHARE * CLIP_STEPS:
            self._norms.clear()
            return ""
        return (
            f"the total gradient norm is {ceiling:.4g} at {at_it} of the last {CLIP_STEPS} steps: gradients are "
            "clipped before steadynorm measures them, which hides spikes. Call agent.before_clip() right before "
            "clipping, or do not clip."
        )


class GradientsEnded:
    """There were gradients, and there are none any more: the optimizer steps, and nothing is trained."""

    name = "gradients_ended"

    def __init__(self) -> None:
        self._had_gradients = False
        self._steps = self._since = 0  # without any: how many, and the first of them

    def observe(self, step: int, raw_norm: float) -> str:
        """A step without a measured norm is ignored."""
        if math.isnan(raw_norm):
            return ""
        if raw_norm > 0:
            self._had_gradients, self._steps = True, 0
            return ""
        if not self._had_gradients:
            return ""
        if not self._steps:
            self._since = step
        self._steps += 1
        if self._steps < ZERO_STEPS:
            return ""
        return (
            f"all gradients are missing or zero since step {self._since}, for {self._steps} steps, and were not "
            "before: nothing is trained. Either the loss no longer depends on the weights, or the model has other "
            "parameters than its optimizer, as after load_state_dict(assign=True). For new parameters make a new "
            "optimizer, and attach to it."
        )
