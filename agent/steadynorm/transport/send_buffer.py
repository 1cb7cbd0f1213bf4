"""Records that wait to be sent, in bounded memory, and exact counters of all of them.

A record is one step's scalars, its per-parameter rows, or what the loop logged in it under names of its own. At any
moment, and as any thread sees it, produced = acknowledged + dropped + buffered. That holds after any exception too:
each method first computes what may fail, and then moves records and counts them.
"""

from __future__ import annotations

import math
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from steadynorm_contract.scalars import MAX_SCALAR_GROUPS, MAX_SCALAR_RECORDS, ScalarRecords
from steadynorm_contract.telemetry import AgentCounters, ParameterRows, StepScalars, floats_to_bytes

_OVERHEAD_BYTES = 160  # of a record, beside its numbers: tuple, integers, bytes header

_NAMES_BYTES = 256 * 1024
"""Of logged scalars in one chunk, beside its records."""

_Scalars = tuple[int, float, bytes, str | None]  # step, Unix seconds, numbers, batch identifier
_Logged = tuple[int, float, tuple[str, ...], bytes]  # step, Unix seconds, names, numbers
_Record = TypeVar("_Record")


@dataclass(frozen=True, slots=True)
class RecordChunk:
    """Records taken out of the buffer to be sent together."""

    scalars: StepScalars | None
    rows: ParameterRows | None
    records: int
    size_bytes: int
    batch_ids: dict[int, str]
    logged: list[ScalarRecords]


class SendBuffer:
    """cap_bytes: bound on the memory of records, those being sent included. parameters: rows of one step."""

    def __init__(self, cap_bytes: int, parameters: int) -> None:
        self._cap_bytes = cap_bytes
        self._parameters = parameters
        self._scalars: deque[_Scalars] = deque()
        self._rows: deque[tuple[int, bytes]] = deque()
        self._logged: deque[_Logged] = deque()
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}  # one object for equal names of many records
        self._taken: RecordChunk | None = None
        self._waiting_bytes = 0
        self._produced = self._acknowledged = self._dropped = self._errors = self._sending_errors = 0
        self._lock = threading.Lock()

    @property
    def counters(self) -> AgentCounters:
        """All counters, read at one moment."""
        with self._lock:
            waiting = len(self._scalars) + len(self._rows) + len(self._logged)
            buffered = waiting + (self._taken.records if self._taken else 0)
            return AgentCounters(
                self._produced, self._acknowledged, self._dropped, buffered, self._errors, self._sending_errors
            )

    def add_scalars(self, step: int, time: float, data: bytes, batch_id: str | None = None) -> None:
        """One step's scalars, and with them its batch identifier."""
        size_bytes = _size(data, batch_id)
        with self._lock:
            self._scalars.append((step, time, data, batch_id))
            self._produced += 1
            self._waiting_bytes += size_bytes
            self._thin()

    def add_rows(self, step: int, data: bytes) -> None:
        """One step's per-parameter rows."""
        size_bytes = _size(data)
        with self._lock:
            self._rows.append((step, data))
            self._produced += 1
            self._waiting_bytes += size_bytes
            self._thin()

    def add_logged(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """What the loop logged in one step. A value that is not finite travels as an infinity, see `ScalarRecords`."""
        names = tuple(values)
        data = floats_to_bytes(value if value - value == 0.0 else math.inf for value in values.values())
        with self._lock:
            if len(self._names) > MAX_SCALAR_GROUPS:
                self._names.clear()
            record = (step, time, self._names.setdefault(names, names), data)
            self._logged.append(record)
            self._produced += 1
            self._waiting_bytes += _size(data)
            self._thin()

    def drop_logged(self) -> int:
        """Drop what the loop logged and waits: the server does not store it. Returns the number of records."""
        with self._lock:
            gone = len(self._logged)
            self._waiting_bytes -= sum(_size(record[-1]) for record in self._logged)
            self._dropped += gone
            self._logged.clear()
        return gone

    def add_lost(self, records: int) -> None:
        """Records that were overwritten before they were collected."""
        with self._lock:
            self._produced += records
            self._dropped += records

    def add_error(self, *, sending: bool = False) -> None:
        """An internal exception of the agent: in a step, which turns it off, or while sending."""
        with self._lock:
            self._errors += 1
            self._sending_errors += sending

    def take(self, max_bytes: int) -> RecordChunk | None:
        """Take the oldest records, up to max_bytes and at least one; None if there are none.

        They count as buffered until `release()`. There is one chunk at a time.
        """
        with self._lock:
            assert self._taken is None, "the last chunk has not been released"
            scalars, room = _oldest(self._scalars, max_bytes, 1, lambda record: _size(*record[2:]))
            rows, room = _oldest(self._rows, room, 0 if scalars else 1, lambda record: _size(record[-1]))
            room, least = room - _NAMES_BYTES, 0 if scalars or rows else 1
            logged, _ = _oldest(self._logged, room, least, lambda record: _size(record[-1]))
            logged, groups = _grouped(logged)
            if not scalars and not rows and not logged:
                return None
            rows.sort(key=lambda item: item[0])  # rows from before an alarm come late
            chunk = RecordChunk(
                _pack_scalars(scalars),
                _pack_rows(rows, self._parameters),
                len(scalars) + len(rows) + len(logged),
                _total(scalars, rows, logged),
                {step: batch_id for step, _, _, batch_id in scalars if batch_id is not None},
                groups,
            )
            for _ in scalars:
                self._scalars.popleft()
            for _ in rows:
                self._rows.popleft()
            for _ in logged:
                self._logged.popleft()
            self._taken = chunk
            return chunk

    @property
    def waiting_bytes(self) -> int:
        """Memory that records take, the chunk being sent included. At most the cap, or one chunk."""
        return self._waiting_bytes

    def release(self, *, acknowledged: bool) -> None:
        """The chunk was stored by the server, or is dropped."""
        with self._lock:
            if self._taken is None:
                return
            if acknowledged:
                self._acknowledged += self._taken.records
            else:
                self._dropped += self._taken.records
            self._waiting_bytes -= self._taken.size_bytes
            self._taken = None

    def put_back(self) -> None:
        """The chunk is too large: its records wait again, as the oldest."""
        with self._lock:
            if self._taken is None:
                return
            scalars, rows, logged = _unpack(self._taken)
            size_bytes = _total(scalars, rows, logged)
            self._scalars.extendleft(reversed(scalars))
            self._rows.extendleft(reversed(rows))
            self._logged.extendleft(reversed(logged))
            self._waiting_bytes += size_bytes - self._taken.size_bytes
            self._taken = None

    def _thin(self) -> None:
        """Keep the cap: every second step's rows go first, then the oldest of what was logged, then of the scalars."""
        while self._waiting_bytes > self._cap_bytes and (self._scalars or self._rows or self._logged):
            if self._rows:
                everything = list(self._rows)
                gone = everything[::2]
                size_bytes = sum(_size(data) for _, data in gone)
                self._rows = deque(everything[1::2])
                self._dropped += len(gone)
            elif self._logged:
                size_bytes = _size(self._logged.popleft()[-1])
                self._dropped += 1
            else:
                size_bytes = _size(*self._scalars[0][2:])
                self._scalars.popleft()
                self._dropped += 1
            self._waiting_bytes -= size_bytes


def _oldest(
    records: Iterable[_Record], room: int, least: int, size: Callable[[_Record], int]
) -> tuple[list[_Record], int]:
    """The first records that fit into `room` bytes, and at least so many of them; and the room that is left."""
    chosen: list[_Record] = []
    for record in records:
        needed = size(record)
        if needed > room and len(chosen) >= least:
            break
        chosen.append(record)
        room -= needed
    return chosen, room


def _size(data: bytes, batch_id: str | None = None) -> int:
    named = 0 if batch_id is None else 4 * len(batch_id) + _OVERHEAD_BYTES  # a character may have four bytes
    return len(data) + _OVERHEAD_BYTES + named


def _pack_scalars(records: list[_Scalars]) -> StepScalars | None:
    if not records:
        return None
    times = struct.pack(f"<{len(records)}d", *(record[1] for record in records))
    return StepScalars([record[0] for record in records], times, b"".join(record[2] for record in records))


def _pack_rows(records: list[tuple[int, bytes]], parameters: int) -> ParameterRows | None:
    if not records:
        return None
    return ParameterRows([step for step, _ in records], parameters, b"".join(data for _, data in records))


def _total(scalars: list[_Scalars], rows: list[tuple[int, bytes]], logged: list[_Logged]) -> int:
    """Bytes of these records."""
    others = [*(data for _, data in rows), *(data for _, _, _, data in logged)]
    return sum(_size(*each[2:]) for each in scalars) + sum(map(_size, others))


def _grouped(records: list[_Logged]) -> tuple[list[_Logged], list[ScalarRecords]]:
    """The first of these records that have few enough different names, and they as groups with the same ones."""
    groups: dict[tuple[str, ...], list[_Logged]] = {}
    room = _NAMES_BYTES
    records = records[:MAX_SCALAR_RECORDS]
    for at, record in enumerate(records):
        if record[2] not in groups:
            room -= sum(4 * len(name) + 5 for name in record[2])  # a character may have four bytes
            if groups and (room < 0 or len(groups) == MAX_SCALAR_GROUPS):
                records = records[:at]
                break
        groups.setdefault(record[2], []).append(record)
    return records, [
        ScalarRecords(
            names,
            [step for step, _, _, _ in group],
            struct.pack(f"<{len(group)}d", *(time for _, time, _, _ in group)),
            b"".join(data for _, _, _, data in group),
        )
        for names, group in groups.items()
    ]


def _unpack(chunk: RecordChunk) -> tuple[list[_Scalars], list[tuple[int, bytes]], list[_Logged]]:
    scalars: list[_Scalars] = []
    if chunk.scalars is not None:
        numbers = _parts(chunk.scalars.data, len(chunk.scalars.steps))
        for step, time, data in zip(chunk.scalars.steps, chunk.scalars.time_values(), numbers, strict=True):
            scalars.append((step, time, data, chunk.batch_ids.get(step)))
    logged: list[_Logged] = []
    for group in chunk.logged:
        parts = _parts(group.data, len(group.steps))
        logged += zip(group.steps, group.time_values(), [group.names] * len(parts), parts, strict=True)
    logged.sort(key=lambda record: record[1])
    rows = chunk.rows
    listed = [] if rows is None else list(zip(rows.steps, _parts(rows.data, len(rows.steps)), strict=True))
    return scalars, listed, logged


def _parts(data: bytes, count: int) -> list[bytes]:
    size = len(data) // count
    return [data[at : at + size] for at in range(0, len(data), size)]
