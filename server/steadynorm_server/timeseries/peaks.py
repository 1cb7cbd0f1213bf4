"""Per parameter the largest spike ratio and the number of spikes of a run."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from steadynorm_contract.rule import SPIKE_RATIO


@dataclass(slots=True)
class Peaks:
    """Per parameter the largest spike ratio and the number of spikes in recorded rows, since the run began."""

    ratios: npt.NDArray[np.float32]  # [parameters]
    spikes: npt.NDArray[np.uint32]  # [parameters]

    @classmethod
    def decode(cls, data: bytes | None, parameters: int) -> Self:
        """From Redis; zeros where nothing is stored yet."""
        if data is None:
            return cls(np.zeros(parameters, np.float32), np.zeros(parameters, np.uint32))
        return cls(
            np.frombuffer(data, "<f4", parameters).astype(np.float32),
            np.frombuffer(data, "<u4", parameters, 4 * parameters).astype(np.uint32),
        )

    def encode(self) -> bytes:
        """For Redis."""
        return self.ratios.astype("<f4").tobytes() + self.spikes.astype("<u4").tobytes()

    def add(self, ratios: npt.NDArray[np.float32]) -> bool:
        """Add the ratios of rows [rows, parameters]. Returns whether anything changed."""
        if not (ratios > np.minimum(self.ratios, np.float32(SPIKE_RATIO))).any():  # most batches; NaN is not greater
            return False
        ratios = np.where(np.isfinite(ratios), ratios, np.float32(0))
        highest = np.maximum(self.ratios, ratios.max(axis=0))
        changed = not np.array_equal(highest, self.ratios)
        self.ratios = highest
        if (spiked := ratios > SPIKE_RATIO).any():
            self.spikes += spiked.sum(axis=0, dtype=np.uint32)
            changed = True
        return changed
