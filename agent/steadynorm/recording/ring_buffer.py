"""The newest steps' rows of one stabilizer, in a ring buffer without a lock.

Each slot has two sequence numbers: `write_started` is set before its rows are written and `write_finished` afterwards.
A copy is valid if `write_finished` matched before it and `write_started` still matches after it; otherwise the slot was
overwritten and the step is lost, never mixed with another.

With CUDA the ring is in pinned host memory. The training thread enqueues the copy of the rows into it and, behind that
on the same stream, the copy of the round's number: once the number has landed the rows have. So the reader only reads
host memory. It must make no CUDA call: a query of an event breaks a graph that the training thread captures at that
moment, and a thread of its own would make a context on the first GPU.
"""

from __future__ import annotations

import math
from ctypes import memmove
from dataclasses import dataclass

import torch
from torch import Tensor

from steadynorm.stabilizer.statistics import RING_COLUMNS

RING_BYTES = 20 * 1024 * 1024
MIN_STEPS, MAX_STEPS = 128, 16_384  # some seconds: a request that gets no response may take that long
NO_STEP = -2.0  # in place of each number of a row: the parameter's optimizer took no step in this round
_ROW_BYTES = 4 * len(RING_COLUMNS)
_CHUNK = 32_768  # numbers read at once: for more, torch would use its thread pool, which training needs


def capacity_for(parameters: int) -> int:
    """Steps that a ring buffer for so many parameters holds."""
    return max(MIN_STEPS, min(MAX_STEPS, RING_BYTES // (4 * parameters * len(RING_COLUMNS))))


@dataclass(frozen=True, slots=True)
class Mark:
    """One stabilizer's part of one step, without its rows."""

    step: int
    time: float  # Unix seconds
    loss: float | None  # None: none was logged
    learning_rate: float
    batch_id: str | None = None
    logged_step: int | None = None  # the loop's number of the step


class RingBuffer:
    """Rows of one stabilizer. A round is a step's number in this process: it only grows, and determines the slot."""

    def __init__(self, parameters: int, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self._parameters = parameters
        shape = (parameters, len(RING_COLUMNS))
        self._device = device
        self._cuda = device.type == "cuda"
        self._rows = self._buffer((capacity, *shape), torch.float32)  # [slots, parameters, RING_COLUMNS]
        self._none = torch.full(shape, NO_STEP, dtype=torch.float32, device="cpu")  # rows without any step
        self._first = 0  # the first parameter that has a row of the newest round, see `add`
        self._extras = self._buffer((capacity, 2), torch.float32)  # [slots, 2]: loss and rate, where they are tensors
        self._write_started = [0] * capacity
        self._write_finished = [0] * capacity
        # [slots, 2], with CUDA: the round whose rows have landed in the slot, and the one whose loss has.
        marked = capacity if self._cuda else 0
        self._landed = self._buffer((marked, 2), torch.int64)
        self._numbers = torch.zeros((marked, 2), dtype=torch.int64, device=device)
        self._steps = [0] * capacity
        self._times = [0.0] * capacity
        self._losses: list[float | None] = [None] * capacity  # None: in the extras
        self._has_loss = [False] * capacity
        self._learning_rates: list[float | None] = [None] * capacity
        self._batch_ids: list[str | None] = [None] * capacity
        self._logged_steps: list[int | None] = [None] * capacity
        self._chunk = max(1, min(capacity, _CHUNK // math.prod(shape)))
        self._copied_rows = torch.empty((self._chunk, *shape), dtype=torch.float32, device="cpu")
        self._copied_extras = torch.empty((self._chunk, 2), dtype=torch.float32, device="cpu")

    def _buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """What the training thread writes and the reader reads."""
        if self._cuda:
            return torch.zeros(shape, dtype=dtype, device="cpu", pin_memory=True)
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def put(self, round_: int, step: int, time: float, rows: Tensor, learning_rate: float | Tensor) -> None:
        """Training thread: store `rows`, float32 [parameters, RING_COLUMNS], without waiting for the device."""
        if self._is_captured():
            return
        slot = round_ % self.capacity
        self._write_started[slot] = round_
        self._rows[slot].copy_(rows, non_blocking=self._cuda)
        self._has_loss[slot] = False
        self._batch_ids[slot] = self._logged_steps[slot] = None
        self._put_rate(slot, learning_rate)
        self._steps[slot] = step
        self._times[slot] = time
        self._mark_landing(slot, 0, round_)
        self._write_finished[slot] = round_

    def begin(self, round_: int, step: int, time: float, learning_rate: float | Tensor) -> None:
        """Training thread, host memory only: a round of several optimizers, of which none has put rows. See `add`."""
        self.put(round_, step, time, self._none, learning_rate)
        self._first = self._parameters

    def add(self, round_: int, start: int, rows: Tensor, learning_rate: float | Tensor) -> None:
        """Training thread: store one optimizer's `rows` of the newest round, from parameter `start` on.

        Of a round's learning rates that of the first parameter counts, in whatever order the optimizers step.
        """
        slot, size = round_ % self.capacity, rows.shape[0] * _ROW_BYTES
        memmove(self._rows.data_ptr() + (slot * self._parameters + start) * _ROW_BYTES, rows.data_ptr(), size)
        if start < self._first:
            self._first = start
            self._put_rate(slot, learning_rate)

    def put_loss(self, round_: int, loss: float | Tensor) -> None:
        """Training thread: add the loss to a round that was put and is the newest."""
        slot = round_ % self.capacity
        if isinstance(loss, Tensor):
            if self._is_captured():
                return
            self._put_extra(slot, 0, loss)
            self._mark_landing(slot, 1, round_)
            self._losses[slot] = None
        else:
            self._losses[slot] = loss
        self._has_loss[slot] = True

    def _put_rate(self, slot: int, learning_rate: float | Tensor) -> None:
        if isinstance(learning_rate, Tensor):
            self._put_extra(slot, 1, learning_rate.detach().squeeze())
            self._learning_rates[slot] = None
        else:
            self._learning_rates[slot] = learning_rate

    def _put_extra(self, slot: int, column: int, value: Tensor) -> None:
        """Store a scalar. It comes behind all that was enqueued, so one of another GPU is brought to this one first."""
        if self._cuda and value.device != self._device:
            value = value.to(self._device, non_blocking=True)
        self._extras[slot, column].copy_(value, non_blocking=self._cuda)

    def _mark_landing(self, slot: int, column: int, round_: int) -> None:
        """Enqueue the round's number behind what it is about. A cell for each slot: the streams may differ."""
        if self._cuda:
            number = self._numbers[slot, column]
            number.fill_(round_)
            self._landed[slot, column].copy_(number, non_blocking=True)

    def _is_captured(self) -> bool:
        """Whether a CUDA graph is being captured: each replay would write into this one slot, over later steps."""
        return self._cuda and torch.cuda.is_current_stream_capturing()

    def put_batch_id(self, round_: int, batch_id: str) -> None:
        """Training thread: add the batch identifier to a round that was put and is the newest."""
        self._batch_ids[round_ % self.capacity] = batch_id

    def put_logged_step(self, round_: int, step: int) -> None:
        """Training thread: add the loop's number to a round that was put and is the newest."""
        self._logged_steps[round_ % self.capacity] = step

    def span(self, start: int, stop: int) -> int:
        """Where a read of the rounds start..stop (exclusive) must end, to be contiguous and within one chunk."""
        first = start % self.capacity
        return min(stop, start + self._chunk, start + self.capacity - first)

    def landed(self, start: int, stop: int) -> int:
        """Reader: the first of the rounds start..stop (exclusive, as `span` allows) that the device has yet to write.

        `stop` where there is none. A round that was overwritten, or that this stabilizer took no part in, is none.
        """
        if not self._cuda:
            return stop
        first = start % self.capacity
        for offset, (rows, loss) in enumerate(self._landed[first : first + stop - start].tolist()):
            slot, round_ = first + offset, start + offset
            if self._write_finished[slot] != round_:
                continue
            has_loss_tensor = self._has_loss[slot] and self._losses[slot] is None
            if rows != round_ or (has_loss_tensor and loss != round_):
                return round_
        return stop

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
                None if not self._has_loss[slot] else loss if host_loss is None else host_loss,
                learning_rate if host_rate is None else host_rate,
                self._batch_ids[slot],
                self._logged_steps[slot],
            )
            marks.append(mark if finished[offset] else None)
        # Last, after everything above was read.
        lost = [self._write_started[first + offset] > start + offset for offset in range(count)]
        return rows, [None if gone else mark for mark, gone in zip(marks, lost, strict=True)], lost

    def _copy(self, first: int, count: int) -> tuple[Tensor, list[list[float]]]:
        rows, extras = self._copied_rows[:count], self._copied_extras[:count]
        rows.copy_(self._rows[first : first + count])
        extras.copy_(self._extras[first : first + count])
        values: list[list[float]] = extras.tolist()
        return rows, values
