"""Turns the rows that steps leave on their devices into records of whole steps, over all stabilizers."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

import torch
from torch import Tensor

from steadynorm.recording.logged import Logged
from steadynorm.recording.ring_buffer import NO_STEP, Mark, RingBuffer, capacity_for
from steadynorm.recording.scalars import LoggedRecord, ScalarLog
from steadynorm.recording.step_numbers import StepNumbers
from steadynorm.stabilizer.statistics import NOT_MEASURED, RING_COLUMNS
from steadynorm.stabilizer.summary import clean_rows, summarize
from steadynorm_contract.telemetry import ROW_COLUMNS, SCALAR_COLUMNS, floats_to_bytes

_LOSS, _LOSS_NONFINITE, _LEARNING_RATE, _RAW_NORM, _SPIKES, _NONFINITE = (
    SCALAR_COLUMNS.index(name)
    for name in ("loss", "loss_nonfinite", "learning_rate", "raw_norm", "spikes", "nonfinite")
)
_ABSENT = torch.tensor(
    [{"raw_norm": NOT_MEASURED}.get(name, 0.0) for name in RING_COLUMNS], dtype=torch.float32, device="cpu"
)

_OFFSETS = 4096  # changes of it, of which values that come late are numbered
LANDING_S = 1.5  # less than what `close()` waits for without a response
_POLL_S = 0.001


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
    logged_step: int | None = None  # the loop's number of the step
    own_step: int = 0  # the agent's; set where `step` became the number under which it is recorded
    round: int = 0  # of steps since attach(), which never goes back; of `combine`: the place in its rows
    logged: LoggedRecord | None = None  # under names of the loop's own; its step is the recorded one


OnCollected = Callable[[Sequence[StepRecord], Sequence[LoggedRecord], bool], None]


class Recorder:
    """Holds each step's rows on their devices until the publisher's thread collects them.

    counts: parameters of each stabilizer, in the order of the registered table. devices: the stabilizers' devices.
    Neighbours in host memory share a ring: with an optimizer for each parameter there are hundreds of them.
    """

    def __init__(self, counts: Sequence[int], devices: Sequence[torch.device]) -> None:
        shared = [
            list(places)
            for on_host, group in groupby(range(len(counts)), lambda at: devices[at].type == "cpu")
            for places in ([group] if on_host else ([at] for at in group))
        ]
        sizes = [sum(counts[at] for at in places) for places in shared]
        self.capacity = min(map(capacity_for, sizes))
        self._rings = [
            RingBuffer(size, self.capacity, devices[places[0]]) for size, places in zip(sizes, shared, strict=True)
        ]
        # Of each stabilizer: its ring, and where its rows begin there; None: it has the ring to itself.
        self._places: list[tuple[int, int | None]] = []
        for ring, places in enumerate(shared):
            starts = accumulate((counts[at] for at in places[:-1]), initial=0)
            self._places += [(ring, start if len(places) > 1 else None) for start in starts]
        self._begun = [0] * len(shared)  # the newest round of each shared ring
        self._newest = 0  # round of the newest record
        self._newest_ring = 0
        self._has_loss = True  # whether the newest round has one; before the first round a loss is held
        self._has_batch_id = True
        self._held_batch_id: str | None = None
        self._has_step = True
        self._held_step: int | None = None
        self._logged_step: int | None = None
        self.logged_offset = 0  # as `step_offset`, of the newest step: it may not be collected yet
        self._first = 1  # round, since attach() or since a checkpoint was loaded
        self._numbers = StepNumbers()
        self._offsets: deque[tuple[int, int]] = deque(maxlen=_OFFSETS)  # the first round of each, and the offset
        self._held: float | None = None
        self._held_tensors = [torch.zeros((), dtype=torch.float32, device=device) for device in devices[:1]]
        self._holds_tensor = False
        self._next = 1  # round that the reader collects next
        self._scalars = ScalarLog()
        self.apart: list[LoggedRecord] = []  # of the last `collect()`: scalars whose step is not among its records
        self._newest_step = 0
        self._scalars_lost = 0  # entries that were reported as lost
        self.on_first: Callable[[], None] | None = None  # called at the first step, in the training thread
        self.before_next: Callable[[], None] | None = None  # called once, by the reader, before it collects
        self.on_collected: OnCollected | None = None  # called with what each `collect()` returns, and `apart`

    # The training thread.

    def put(self, index: int, round_: int, step: int, rows: Tensor, learning_rate: float | Tensor) -> None:
        """Record stabilizer `index`'s rows of a step. No wait for the device."""
        at, start = self._places[index]
        if start is None:
            self._rings[at].put(round_, step, time.time(), rows, learning_rate)
        else:
            if self._begun[at] != round_:
                self._rings[at].begin(round_, step, time.time(), learning_rate)
                self._begun[at] = round_
            self._rings[at].add(round_, start, rows, learning_rate)
        begins = round_ != self._newest
        if self.on_first is not None:
            first, self.on_first = self.on_first, None
            first()
        self._newest_ring, self._newest, self._newest_step = at, round_, step
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
            self._has_step = False
            if self._held_step is not None:
                number, self._held_step = self._held_step, None
                self.put_step(number)

    def log(self, said: Logged) -> None:
        """What the loop says about the newest step or, where that has it already, about the coming one."""
        if said.step is not None:
            self.put_step(said.step)
        if said.batch_id is not None:
            self.put_batch_id(said.batch_id)
        if said.scalars:
            ahead = said.loss is not None and self._has_loss  # then the loss is the coming step's, and they with it
            put = self._scalars.put_ahead if ahead else self._scalars.put
            put(self._newest, self._newest_step, said.scalars)
        if said.loss is not None:
            self.put_loss(said.loss)

    def put_late(self, logged: LoggedRecord) -> None:
        """Scalars of an earlier step."""
        self._scalars.put_late(logged)

    def checkpoint_loaded(self, offset: int, *, alone: bool) -> None:
        """The step that was to come never comes: what was logged for it is not the next one's.

        offset: see `step_offset`. alone: no publisher collects, which would set it.
        """
        self.logged_offset, self._first = offset, self._newest + 1
        if alone:
            self.step_offset = offset
        if not self._newest:  # what was logged before the first step is still of the first one
            return
        self._holds_tensor, self._held, self._held_batch_id = False, None, None
        self._held_step = self._logged_step = None
        self._scalars.give_up_coming(self._newest)

    def lose_scalars(self, entries: int) -> None:
        """Count scalars that were lost before they came here."""
        self._scalars.lost += entries

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

    def put_step(self, step: int) -> None:
        """The loop's number of the newest step; if that has one already, of the coming step."""
        if not self._has_step:
            self._rings[self._newest_ring].put_logged_step(self._newest, step)
            self._has_step, self._logged_step = True, step
            if self._newest == self._first or step >= self._newest_step + self.logged_offset:  # else it is ignored
                self.logged_offset = step - self._newest_step
        elif step != self._logged_step:  # else a second call for the same step
            self._held_step = step

    def backlog(self) -> int:
        """Steps that are not collected yet."""
        return self._newest - self._next

    def _put_loss(self, loss: float | Tensor) -> None:
        self._rings[self._newest_ring].put_loss(self._newest, loss)
        self._has_loss = True

    # The publisher's thread.

    @property
    def step_offset(self) -> int:
        """The loop's number of the newest step that was collected minus the agent's."""
        return self._numbers.offset

    @step_offset.setter
    def step_offset(self, offset: int) -> None:
        self._numbers.offset = offset

    @property
    def taken(self) -> int:
        """Steps that `collect()` has taken, also where it raised then."""
        return self._next - 1

    def collect(self, *, final: bool = False) -> tuple[list[StepRecord], int]:
        """Steps that are complete, and how many were overwritten before they could be read.

        The newest step is left for the next call, since its loss may still come; `final` includes it. So are steps that
        a GPU has yet to finish; `final` gives it LANDING_S. An exception costs the steps of this call, see `taken`; the
        next call continues behind them.
        """
        if self.before_next is not None:
            before, self.before_next = self.before_next, None
            before()
        self.apart = []
        stop = self._newest + (1 if final else 0)
        lost = max(0, stop - self.capacity - self._next)
        self._next += lost
        records: list[StepRecord] = []
        deadline = time.monotonic() + (LANDING_S if final else 0.0)
        while self._next < stop:
            first, span = self._next, min(ring.span(self._next, stop) for ring in self._rings)
            self._next = self._landed(first, span, deadline)
            if self._next == first:
                break
            rows, marks, overwritten = zip(*(ring.read(first, self._next) for ring in self._rings), strict=True)
            found, gone = combine(rows, marks, overwritten)
            logged = {each.round: each for each in self._scalars.take(self._next)}
            for each in found:
                number, round_ = self._numbers.number(each.step, each.logged_step), first + each.round
                if not self._offsets or self._offsets[-1][1] != self._numbers.offset:
                    self._offsets.append((round_, self._numbers.offset))
                own = logged.pop(round_, None)
                said = None if own is None else replace(own, step=number)
                records.append(replace(each, step=number, own_step=each.step, round=round_, logged=said))
            self.apart += map(self._numbered, logged.values())
            lost += gone
        if final:  # also what is of a step that has not come, and may never come
            self._landed(self._newest + 1, self._newest + 2, deadline)
            self.apart += map(self._numbered, self._scalars.take(sys.maxsize))
        else:  # of steps that were collected before
            self.apart += map(self._numbered, self._scalars.take(self._next))
        lost += self._scalars.lost - self._scalars_lost
        self._scalars_lost = self._scalars.lost
        if self.on_collected is not None:
            self.on_collected(records, self.apart, final)
        return records, lost

    def _numbered(self, logged: LoggedRecord) -> LoggedRecord:
        """Of a step that is not recorded with it: the first one was not taken yet, or it was sent before."""
        at = bisect_right(self._offsets, logged.round, key=lambda each: each[0]) - 1
        offset = self._offsets[at][1] if at >= 0 else self._numbers.offset
        return replace(logged, step=max(0, logged.step + offset), own_step=logged.step)

    def _landed(self, start: int, stop: int, deadline: float) -> int:
        """The first of the rounds start..stop (exclusive) that a device has yet to write; `stop` if there is none."""
        while True:
            end = min(self._scalars.waiting(stop), *(ring.landed(start, stop) for ring in self._rings))
            if end >= stop or time.monotonic() >= deadline:
                return max(start, end)
            time.sleep(_POLL_S)  # not an event: this thread must make no CUDA call, see `ring_buffer`


def combine(
    rows: Sequence[Tensor], marks: Sequence[Sequence[Mark | None]], lost: Sequence[Sequence[bool]]
) -> tuple[list[StepRecord], int]:
    """Merge several stabilizers' rows of the same steps; and how many steps are lost.

    rows: of each stabilizer, float32 [steps, parameters, RING_COLUMNS]; with its marks, and which were overwritten.
    Where a mark is None, or a row is of NO_STEP (no step of that optimizer in this round), the parameters count as
    absent, with NaN rows.
    """
    together = torch.cat(list(rows), dim=1)
    absent = [
        torch.tensor([mark is None for mark in each], dtype=torch.bool, device="cpu")
        .view(-1, 1, 1)
        .expand(-1, part.shape[1], 1)
        for part, each in zip(rows, marks, strict=True)
    ]
    is_absent = torch.cat(absent, dim=1) | (together[..., :1] == NO_STEP)  # [steps, parameters, 1]
    everything = torch.where(is_absent, _ABSENT, together)
    scalars = summarize(everything).tolist()
    sent = torch.where(is_absent, torch.nan, clean_rows(everything)[..., : len(ROW_COLUMNS)]).contiguous()
    records: list[StepRecord] = []
    gone = 0
    for index, values in enumerate(scalars):
        present = [mark for each in marks if (mark := each[index]) is not None]
        if any(each[index] for each in lost):
            gone += 1
        elif present:
            losses = [mark.loss for mark in present if mark.loss is not None]
            if losses:  # else NaN, as a loss that is NaN: the flag tells them apart
                loss = ctypes.c_float(losses[0]).value  # as it is sent: infinite where float32 cannot hold it
                values[_LOSS], values[_LOSS_NONFINITE] = loss, float(not math.isfinite(loss))
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
                    next((mark.logged_step for mark in present if mark.logged_step is not None), None),
                    round=index,
                )
            )
    return records, gone


def _bytes(rows: Tensor) -> bytes:
    """A contiguous float32 host tensor as little-endian bytes, without numpy, which may not be installed."""
    values = ctypes.string_at(rows.data_ptr(), rows.numel() * rows.element_size())
    return values if sys.byteorder == "little" else floats_to_bytes(array("f", values))
