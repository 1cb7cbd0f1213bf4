"""CUDA graphs that contain steps of a stabilizer: what they point into, and that they go on without it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch.cuda import is_current_stream_capturing

_pointed_into: list[object] = []
"""For good: a graph may be replayed after its stabilizer is gone, and would write into memory that others have by then.
"""

_log = logging.getLogger("steadynorm")


class Captures:
    """The captures of one stabilizer on `device`."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._any = False

    def keep(self, memory: Iterable[object]) -> None:
        """At every step: if it is captured, `memory` is never freed. Later calls with the same need not name it."""
        if self._on_gpu and not self._any and is_current_stream_capturing():
            self._any = True
            _pointed_into.extend(memory)

    def warn(self) -> None:
        """The stabilizer ends. Its captured steps do not, which is said once."""
        if self._any:
            self._any = False
            _log.warning(
                "a captured CUDA graph contains steps of this stabilizer: its replays go on applying them, with the "
                "settings of now. Capture again without it to train with raw gradients."
            )
