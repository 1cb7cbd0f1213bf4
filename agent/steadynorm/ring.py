"""The newest steps' records of one stabilizer, in a ring on its device: written by the step hook, read from behind.

Writer and reader share no lock. Each slot carries two host marks: `begun` is set before a record is written and `done`
after it. What a reader copied is sound if `done` said so before the copy and `begun` still says so after it; else the
writer has come round and the record is lost, never mixed with another.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from dataclasses import dataclass

import torch
from torch import Tensor

from steadynorm_contract.records import SCALAR_COLUMNS

__all__ = ["Ring", "Section", "capacity_for"]

LOSS, LEARNING_RATE = SCALAR_COLUMNS.index("loss"), SCALAR_COLUMNS.index("learning_rate")
RING_BYTES = 16 * 1024 * 1024
FEWEST_STEPS, MOST_STEPS = 128, 16_384  # some seconds, which is what a request may take that nobody answers
_CHUNK_BYTES = 1024 * 1024  # of the host buffer that the reader copies through


def capacity_for(width: int) -> int:
    """Steps that a ring of float32 records of `width` numbers holds."""
    return max(FEWEST_STEPS, min(MOST_STEPS, RING_BYTES // (4 * width)))


@dataclass(frozen=True, slots=True)
class Section:
    """One stabilizer's part of one step: scalars in SCALAR_COLUMNS order, then a row for each parameter."""

    step: int
    time: float  # Unix seconds
    values: array[float]


class Ring:
    """Records of one stabilizer. A round is a step's number in this process: it only grows, and names the slot."""

    def __init__(self, width: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self._records = torch.full((capacity, width), torch.nan, device=device)  # [slots, width], float32
        self._begun = [0] * capacity
        self._done = [0] * capacity
        self._steps = [0] * capacity
        self._times = [0.0] * capacity
        self._learning_rates: list[float | None] = [None] * capacity  # None: it is in the record
        self._chunk = max(1, min(capacity, _CHUNK_BYTES // (4 * width)))
        self._cuda = device.type == "cuda"
        self._host = torch.empty((self._chunk, width), pin_memory=self._cuda)
        self._writer: torch.cuda.Stream | None = None
        self._reader = torch.cuda.Stream(device) if self._cuda else None

    def put(self, round_: int, step: int, time: float, record: Tensor, learning_rate: float | Tensor) -> None:
        """Training thread: keep `record` (float32 [width], rewritten by the next step) without waiting for it."""
        slot = round_ % self.capacity
        self._begun[slot] = round_
        row = self._records[slot]
        row.copy_(record)
        if isinstance(learning_rate, Tensor):
            row[LEARNING_RATE].copy_(learning_rate.detach().squeeze())
            self._learning_rates[slot] = None
        else:
            self._learning_rates[slot] = learning_rate
        self._steps[slot] = step
        self._times[slot] = time
        if self._cuda:
            self._writer = torch.cuda.current_stream(self._records.device)
        self._done[slot] = round_

    def put_loss(self, round_: int, loss: float | Tensor) -> None:
        """Training thread: add the loss to a round that was put and is the newest."""
        cell = self._records[round_ % self.capacity, LOSS]
        if isinstance(loss, Tensor):
            cell.copy_(loss)
        else:
            cell.fill_(loss)

    def span(self, start: int, stop: int) -> int:
        """Where a read of the rounds start..stop (exclusive) has to end: it stays in one piece and one chunk."""
        first = start % self.capacity
        return min(stop, start + self._chunk, start + self.capacity - first)

    def read(self, start: int, stop: int) -> tuple[list[Section | None], list[bool]]:
        """Reader: the rounds start..stop (exclusive, as `span` allows), and which of them were overwritten.

        None: overwritten, or this stabilizer's optimizer took no step in that round.
        """
        first, count = start % self.capacity, stop - start
        rounds = range(start, stop)
        done = [self._done[first + offset] == round_ for offset, round_ in enumerate(rounds)]
        values = self._copy(first, count) if any(done) else []
        sections: list[Section | None] = []
        for offset in range(count):
            slot = first + offset
            if not done[offset]:
                sections.append(None)
                continue
            learning_rate = self._learning_rates[slot]
            if learning_rate is not None:
                values[offset][LEARNING_RATE] = learning_rate
            sections.append(Section(self._steps[slot], self._times[slot], values[offset]))
        # Last, after everything above was read.
        lost = [self._begun[first + offset] > round_ for offset, round_ in enumerate(rounds)]
        return [None if gone else section for section, gone in zip(sections, lost, strict=True)], lost

    def _copy(self, first: int, count: int) -> list[array[float]]:
        host = self._host[:count]
        if self._reader is None:
            host.copy_(self._records[first : first + count])
        else:
            # Everything enqueued so far by the training thread comes first; the wait is on the device.
            if self._writer is not None:
                self._reader.wait_stream(self._writer)
            with torch.cuda.stream(self._reader):
                host.copy_(self._records[first : first + count], non_blocking=True)
                copied = torch.cuda.Event(blocking=True)
                copied.record(self._reader)
            copied.synchronize()  # this thread sleeps; the training thread does not
        return [_floats(row) for row in host]


def _floats(row: Tensor) -> array[float]:
    """A contiguous float32 host tensor as an array, without numpy, which a training image need not have."""
    values = array("f")
    values.frombytes(ctypes.string_at(row.data_ptr(), row.numel() * row.element_size()))
    return values


assert array("f").itemsize == 4, sys.platform
