"""Turns the rows that steps leave on their devices into records of whole steps, over all stabilizers."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadynorm.recording.ring_buffer import Mark, RingBuffer, capacity_for
from steadynorm.stabilizer.statistics import NOT_MEASURED, RING_COLUMNS
from steadynorm.stabilizer.summary import clean_rows, summarize
from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS, floats_to_bytes

_LOSS, _LEARNING_RATE, _RAW_NORM, _SPIKES, _NONFINITE = (
    SCALAR_COLUMNS.index(name) for name in ("loss", "learning_rate", "raw_norm", "spikes", "nonfinite")
)
_ABSENT = torch.tensor([{"raw_norm": NOT_MEASURED}.get(name, 0.0) for name in RING_COLUMNS])


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step. scalars: float32 bytes in SCALAR_COLUMNS order; rows: float32 bytes, [parameters, ROW_COLUMNS]."""

    step: int
    time: float  # Unix seconds
    scalars: bytes
    rows: bytes
    alarm: bool  # a spike or a non-finite gradient
    batch_id: str | None = None  # only with an alarm
    raw_norm: float = math.nan  # as in the scalars


class Recorder:
    """Holds each step's rows on their devices until the publisher's thread collects them.

    counts: parameters of each stabilizer, in the order of the registered table. devices: the stabilizers' devices.
    """

    def __init__(self, counts: Sequence[int], devices: Sequence[torch.device]) -> None:
        self.capacity = min(map(capacity_for, counts))
        self._rings = [RingBuffer(count, self.capacity, device) for count, device in zip(counts, devices, strict=True)]
        self._newest = 0  # round of the newest record
        self._newest_ring = 0
        self._has_loss = True  # whether the newest round has one; before the first round a loss is held
        self._has_batch_id = True
        self._held_batch_id: str | None = None
        self._held: float | None = None
        self._held_tensors = [torch.zeros((), device=device) for device in devices[:1]]
        self._holds_tensor = False
        self._next = 1  # round that the reader collects next

    # The training thread.

    def put(self, index: int, round_: int, step: int, rows: Tensor, learning_rate: float | Tensor) -> None:
        """Record stabilizer `index`'s rows of a step. No wait for the device."""
        self._rings[index].put(round_, step, time.time(), rows, learning_rate)
        begins = round_ != self._newest
        self._newest_ring, self._newest = index, round_
        if begins:
            self._has_loss = False
            if self._holds_tensor:
                self._put_loss(self._held_tensors[0])
            elif self._held is not None:
                self._put_loss(self._held)
            self._holds_tensor, self._held = False, None
            self._has_batch_id = False
            if self._held_batch_id is not None:
                held, self._held_batch_id = self._held_batch_id, None
                self.put_batch_id(held)

    def put_loss(self, loss: float | Tensor) -> None:
        """The newest step's loss; if that has one already, the coming step's."""
        if not self._has_loss:
            self._put_loss(loss)
        elif isinstance(loss, Tensor):
            self._held_tensors[0].copy_(loss)
            self._holds_tensor, self._held = True, None
        else:
            self._holds_tensor, self._held = False, loss

    def put_batch_id(self, batch_id: str) -> None:
        """The newest step's batch identifier; if that has one already, the coming step's."""
        if self._has_batch_id:
            self._held_batch_id = batch_id
        else:
            self._rings[self._newest_ring].put_batch_id(self._newest, batch_id)
            self._has_batch_id = True

    def backlog(self) -> int:
        """Steps that are not collected yet."""
        return self._newest - self._next

    def _put_loss(self, loss: float | Tensor) -> None:
        self._rings[self._newest_ring].put_loss(self._newest, loss)
        self._has_loss = True

    # The publisher's thread.

    def collect(self, *, final: bool = False) -> tuple[list[StepRecord], int]:
        """Steps that are complete, and how many were overwritten before they could be read.

        The newest step is left for the next call, since its loss may still come; `final` includes it.
        """
        stop = self._newest + (1 if final else 0)
        lost = max(0, stop - self.capacity - self._next)
        self._next += lost
        records: list[StepRecord] = []
        while self._next < stop:
            until = min(ring.span(self._next, stop) for ring in self._rings)
            rows, marks, overwritten = zip(*(ring.read(self._next, until) for ring in self._rings), strict=True)
            found, gone = combine(rows, marks, overwritten)
            records += found
            lost += gone
            self._next = until
        return records, lost


def combine(
    rows: Sequence[Tensor], marks: Sequence[Sequence[Mark | None]], lost: Sequence[Sequence[bool]]
) -> tuple[list[StepRecord], int]:
    """Merge several stabilizers' rows of the same steps; and how many steps are lost.

    rows: of each stabilizer, float32 [steps, parameters, RING_COLUMNS]; with its marks, and which were overwritten.
    Where a mark is None (no step of that optimizer in this round) the parameters count as absent, with NaN rows.
    """
    absent = [
        torch.tensor([mark is None for mark in each]).view(-1, 1, 1).expand(-1, part.shape[1], 1)
        for part, each in zip(rows, marks, strict=True)
    ]
    is_absent = torch.cat(absent, dim=1)  # [steps, parameters, 1]
    everything = torch.where(is_absent, _ABSENT, torch.cat(list(rows), dim=1))
    scalars = summarize(everything).tolist()
    sent = torch.where(is_absent, torch.nan, clean_rows(everything)[..., : len(ROW_COLUMNS)]).contiguous()
    records: list[StepRecord] = []
    gone = 0
    for index, values in enumerate(scalars):
        present = [mark for each in marks if (mark := each[index]) is not None]
        if any(each[index] for each in lost):
            gone += 1
        elif present:
            values[_LOSS] = next((mark.loss for mark in present if not math.isnan(mark.loss)), math.nan)
            values[_LEARNING_RATE] = present[0].learning_rate
            alarm = values[_SPIKES] > 0 or values[_NONFINITE] > 0
            batch_id = next((mark.batch_id for mark in present if mark.batch_id is not None), None) if alarm else None
            records.append(
                StepRecord(
                    present[0].step,
                    present[0].time,
                    floats_to_bytes(values),
                    _bytes(sent[index]),
                    alarm,
                    batch_id,
                    values[_RAW_NORM],
                )
            )
    return records, gone


def _bytes(rows: Tensor) -> bytes:
    """A contiguous float32 host tensor as little-endian bytes, without numpy, which may not be installed."""
    values = ctypes.string_at(rows.data_ptr(), rows.numel() * rows.element_size())
    return values if sys.byteorder == "little" else floats_to_bytes(array("f", values))
