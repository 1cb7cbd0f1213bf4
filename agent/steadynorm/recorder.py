"""From the stabilizers' records to what is sent: steps put together from their sections, and rows where they matter."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadynorm.ring import Ring, Section, capacity_for
from steadynorm_contract.records import ROW_COLUMNS, SCALAR_COLUMNS, floats_to_bytes

__all__ = ["Recorder", "StepRecord", "combine"]

_AT = {name: index for index, name in enumerate(SCALAR_COLUMNS)}
_SCALARS = len(SCALAR_COLUMNS)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as it is sent. scalars: float32 bytes in SCALAR_COLUMNS order; rows: [parameters, ROW_COLUMNS]."""

    step: int
    time: float  # Unix seconds
    scalars: bytes
    rows: bytes
    alarm: bool  # something spiked or was not finite


class Recorder:
    """Keeps each step's records on their devices until the publisher's thread collects them.

    counts: parameters of each stabilizer, in the order of the registered table. devices: where their records live.
    """

    def __init__(self, counts: Sequence[int], devices: Sequence[torch.device]) -> None:
        widths = [_SCALARS + count * len(ROW_COLUMNS) for count in counts]
        self.capacity = min(map(capacity_for, widths))
        self._counts = list(counts)
        self._rings = [Ring(width, self.capacity, device) for width, device in zip(widths, devices, strict=True)]
        self._newest = 0  # round of the newest record
        self._newest_ring = 0
        self._has_loss = True  # whether the newest round has one; no round is as good as one that has
        self._held: float | None = None
        self._held_tensors = [torch.zeros((), device=device) for device in devices[:1]]
        self._holds_tensor = False
        self._next = 1  # round that the reader collects next

    # The training thread.

    def put(self, index: int, round_: int, step: int, record: Tensor, learning_rate: float | Tensor) -> None:
        """Keep stabilizer `index`'s record of a step. No wait for the device."""
        self._rings[index].put(round_, step, time.time(), record, learning_rate)
        begins = round_ != self._newest
        self._newest_ring, self._newest = index, round_
        if begins:
            self._has_loss = False
            if self._holds_tensor:
                self._give(self._held_tensors[0])
            elif self._held is not None:
                self._give(self._held)
            self._holds_tensor, self._held = False, None

    def put_loss(self, loss: float | Tensor) -> None:
        """The newest step's loss; if that has one already, the coming step's."""
        if not self._has_loss:
            self._give(loss)
        elif isinstance(loss, Tensor):
            self._held_tensors[0].copy_(loss)
            self._holds_tensor, self._held = True, None
        else:
            self._holds_tensor, self._held = False, loss

    def backlog(self) -> int:
        """Steps that nobody has collected yet."""
        return self._newest - self._next

    def _give(self, loss: float | Tensor) -> None:
        self._rings[self._newest_ring].put_loss(self._newest, loss)
        self._has_loss = True

    # The publisher's thread.

    def collect(self, *, final: bool = False) -> tuple[list[StepRecord], int]:
        """Steps that are complete, and how many were overwritten before they could be read.

        The newest step is left for the next time, since its loss may still be coming; `final` takes it too.
        """
        stop = self._newest + (1 if final else 0)
        lost = max(0, stop - self.capacity - self._next)
        self._next += lost
        records: list[StepRecord] = []
        while self._next < stop:
            until = min(ring.span(self._next, stop) for ring in self._rings)
            parts = [ring.read(self._next, until) for ring in self._rings]
            for offset in range(until - self._next):
                sections = [read[offset] for read, _ in parts]
                if any(gone[offset] for _, gone in parts):
                    lost += 1
                elif any(section is not None for section in sections):
                    records.append(combine(sections, self._counts))
            self._next = until
        return records, lost


def combine(sections: Sequence[Section | None], counts: Sequence[int]) -> StepRecord:
    """Several stabilizers' sections of one step as if one had seen all the parameters.

    A section that is None (no step of that optimizer in this round) adds nothing; its rows are NaN. Total norms are the
    root of the sum of squares.
    """
    offsets = [sum(counts[:index]) for index in range(len(counts))]
    present = [(offset, section) for offset, section in zip(offsets, sections, strict=True) if section is not None]
    first = present[0][1]
    if len(sections) == 1:
        scalars = first.values[:_SCALARS]
    else:
        scalars = _combined([(offset, section.values) for offset, section in present])
    rows = b"".join(
        floats_to_bytes(
            section.values[_SCALARS:] if section is not None else array("f", [math.nan]) * (count * len(ROW_COLUMNS))
        )
        for section, count in zip(sections, counts, strict=True)
    )
    alarm = scalars[_AT["spikes"]] > 0 or scalars[_AT["nonfinite"]] > 0
    return StepRecord(first.step, first.time, floats_to_bytes(scalars), rows, alarm)


def _combined(parts: list[tuple[int, array[float]]]) -> array[float]:
    def column(name: str) -> list[float]:
        return [values[_AT[name]] for _, values in parts]

    def extreme(name: str, index: str, sign: float) -> tuple[float, float]:
        found = [
            (sign * values[_AT[name]], values[_AT[name]], offset + values[_AT[index]])
            for offset, values in parts
            if not math.isnan(values[_AT[name]])
        ]
        return min(found, key=lambda item: item[0])[1:] if found else (math.nan, math.nan)

    result = dict.fromkeys(SCALAR_COLUMNS, math.nan)
    result["loss"] = next((loss for loss in column("loss") if not math.isnan(loss)), math.nan)
    result["learning_rate"] = column("learning_rate")[0]
    for name in ("raw_norm", "stabilized_norm"):
        norms = column(name)
        # math.hypot lets an infinity win over a NaN; a norm does not.
        result[name] = math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)
    result["target_min"], result["target_parameter"] = extreme("target_min", "target_parameter", 1.0)
    result["spike_ratio_max"], result["spike_parameter"] = extreme("spike_ratio_max", "spike_parameter", -1.0)
    broken = [offset + values[_AT["nonfinite_parameter"]] for offset, values in parts if values[_AT["nonfinite"]] > 0]
    result["nonfinite_parameter"] = broken[0] if broken else -1.0
    for name in ("spikes", "nonfinite", "throttled"):
        result[name] = sum(column(name))
    return array("f", result.values())
