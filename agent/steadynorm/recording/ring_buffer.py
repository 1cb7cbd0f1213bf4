"""The newest steps' rows of one stabilizer, in a ring buffer on its device, without a lock.

Each slot has two sequence numbers on the host: `write_started` is set before its rows are written and `write_finished`
afterwards. A copy is valid if `write_finished` matched before it and `write_started` still matches after it; otherwise
the slot was overwritten and the step is lost, never mixed with another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadynorm.stabilizer.statistics import RING_COLUMNS

RING_BYTES = 16 * 1024 * 1024
MIN_STEPS, MAX_STEPS = 128, 16_384  # some seconds: a request that gets no response may take that long
_CHUNK = 32_768  # numbers read at once: for more, torch would use its thread pool, which training needs


def capacity_for(parameters: int) -> int:
    """Steps that a ring buffer for so many parameters holds."""
    return max(MIN_STEPS, min(MAX_STEPS, RING_BYTES // (4 * parameters * len(RING_COLUMNS))))


@dataclass(frozen=True, slots=True)
class Mark:
    """One stabilizer's part of one step, without its rows."""

    step: int
    time: float  # Unix seconds
    loss: float
    learning_rate: float
    batch_id: str | None = None


class RingBuffer:
    """Rows of one stabilizer. A round is a step's number in this process: it only grows, and determines the slot."""

    def __init__(self, parameters: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        shape = (parameters, len(RING_COLUMNS))
        self._rows = torch.zeros((capacity, *shape), device=device)  # [slots, parameters, RING_COLUMNS], float32
        self._extras = torch.zeros((capacity, 2), device=device)  # [slots, 2]: loss and rate, where they are tensors
        self._write_started = [0] * capacity
        self._write_finished = [0] * capacity
        self._steps = [0] * capacity
        self._times = [0.0] * capacity
        self._losses: list[float | None] = [None] * capacity  # None: in the extras
        self._learning_rates: list[float | None] = [None] * capacity
        self._batch_ids: list[str | None] = [None] * capacity
        self._chunk = max(1, min(capacity, _CHUNK // math.prod(shape)))
        self._cuda = device.type == "cuda"
        self._host = torch.empty((self._chunk, *shape), pin_memory=self._cuda)
        self._host_extras = torch.empty((self._chunk, 2), pin_memory=self._cuda)
        self._writer: torch.cuda.Stream | None = None
        self._reader = torch.cuda.Stream(device) if self._cuda else None

    def put(self, round_: int, step: int, time: float, rows: Tensor, learning_rate: float | Tensor) -> None:
        """Training thread: store `rows`, float32 [parameters, RING_COLUMNS], without waiting for the device."""
        if self._is_captured():
            return
        slot = round_ % self.capacity
        self._write_started[slot] = round_
        self._rows[slot].copy_(rows)
        self._losses[slot] = math.nan
        self._batch_ids[slot] = None
        if isinstance(learning_rate, Tensor):
            self._extras[slot, 1].copy_(learning_rate.detach().squeeze())
            self._learning_rates[slot] = None
        else:
            self._learning_rates[slot] = learning_rate
        self._steps[slot] = step
        self._times[slot] = time
        if self._cuda:
            self._writer = torch.cuda.current_stream(self._rows.device)
        self._write_finished[slot] = round_

    def put_loss(self, round_: int, loss: float | Tensor) -> None:
        """Training thread: add the loss to a round that was put and is the newest."""
        slot = round_ % self.capacity
        if isinstance(loss, Tensor):
            if self._is_captured():
                return
            self._extras[slot, 0].copy_(loss)
            self._losses[slot] = None
        else:
            self._losses[slot] = loss

    def _is_captured(self) -> bool:
        """Whether a CUDA graph is being captured: each replay would write into this one slot, over later steps."""
        return self._cuda and torch.cuda.is_current_stream_capturing()

    def put_batch_id(self, round_: int, batch_id: str) -> None:
        """Training thread: add the batch identifier to a round that was put and is the newest."""
        self._batch_ids[round_ % self.capacity] = batch_id

    def span(self, start: int, stop: int) -> int:
        """Where a read of the rounds start..stop (exclusive) must end, to be contiguous and within one chunk."""
        first = start % self.capacity
        return min(stop, start + self._chunk, start + self.capacity - first)

    def read(self, start: int, stop: int) -> tuple[Tensor, list[Mark | None], list[bool]]:
        """Reader: the rounds start..stop (exclusive, as `span` allows).

        Returns rows [rounds, parameters, RING_COLUMNS] in host memory, valid until the next read; their marks; and
        which were overwritten. A mark is None there, and where this stabilizer's optimizer took no step.
        """
        first, count = start % self.capacity, stop - start
        finished = [self._write_finished[first + offset] == start + offset for offset in range(count)]
        rows, extras = self._copy(first, count)
        marks: list[Mark | None] = []
        for offset, (loss, learning_rate) in enumerate(extras):
            slot = first + offset
            host_loss, host_rate = self._losses[slot], self._learning_rates[slot]
            mark = Mark(
                self._steps[slot],
                self._times[slot],
                loss if host_loss is None else host_loss,
                learning_rate if host_rate is None else host_rate,
                self._batch_ids[slot],
            )
            marks.append(mark if finished[offset] else None)
        # Last, after everything above was read.
        lost = [self._write_started[first + offset] > start + offset for offset in range(count)]
        return rows, [None if gone else mark for mark, gone in zip(marks, lost, strict=True)], lost

    def _copy(self, first: int, count: int) -> tuple[Tensor, list[list[float]]]:
        rows, extras = self._host[:count], self._host_extras[:count]
        if self._reader is None:
            rows.copy_(self._rows[first : first + count])
            extras.copy_(self._extras[first : first + count])
        else:
            # Everything enqueued so far by the training thread comes first; the wait is on the device.
            if self._writer is not None:
                self._reader.wait_stream(self._writer)
            with torch.cuda.stream(self._reader):
                rows.copy_(self._rows[first : first + count], non_blocking=True)
                extras.copy_(self._extras[first : first + count], non_blocking=True)
                copied = torch.cuda.Event(blocking=True)
                copied.record(self._reader)
            copied.synchronize()  # this thread sleeps; the training thread does not
        values: list[list[float]] = extras.tolist()
        return rows, values
