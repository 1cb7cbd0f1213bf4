"""Records that wait to be sent, in bounded memory, and exact counters of all of them.

A record is one step's scalars, or one step's per-parameter rows. At any moment, and as any thread sees it,
produced = acknowledged + dropped + buffered.
"""

from __future__ import annotations

import struct
import threading
from collections import deque
from dataclasses import dataclass

from steadynorm_contract.telemetry import AgentCounters, ParameterRows, StepScalars

_OVERHEAD_BYTES = 160  # of a record, beside its numbers: tuple, integers, bytes header

_Scalars = tuple[int, float, bytes, str | None]  # step, Unix seconds, numbers, batch identifier


@dataclass(frozen=True, slots=True)
class RecordChunk:
    """Records taken out of the buffer to be sent together."""

    scalars: StepScalars | None
    rows: ParameterRows | None
    records: int
    size_bytes: int
    batch_ids: dict[int, str]


class SendBuffer:
    """cap_bytes: bound on the memory of records, those being sent included. parameters: rows of one step."""

    def __init__(self, cap_bytes: int, parameters: int) -> None:
        self._cap_bytes = cap_bytes
        self._parameters = parameters
        self._scalars: deque[_Scalars] = deque()
        self._rows: deque[tuple[int, bytes]] = deque()
        self._taken: RecordChunk | None = None
        self._waiting_bytes = 0
        self._produced = self._acknowledged = self._dropped = self._errors = self._sending_errors = 0
        self._lock = threading.Lock()

    @property
    def counters(self) -> AgentCounters:
        """All counters, read at one moment."""
        with self._lock:
            buffered = len(self._scalars) + len(self._rows) + (self._taken.records if self._taken else 0)
            return AgentCounters(
                self._produced, self._acknowledged, self._dropped, buffered, self._errors, self._sending_errors
            )

    def add_scalars(self, step: int, time: float, data: bytes, batch_id: str | None = None) -> None:
        """One step's scalars, and with them its batch identifier."""
        with self._lock:
            self._scalars.append((step, time, data, batch_id))
            self._added(_size(data, batch_id))

    def add_rows(self, step: int, data: bytes) -> None:
        """One step's per-parameter rows."""
        with self._lock:
            self._rows.append((step, data))
            self._added(_size(data))

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
            scalars: list[_Scalars] = []
            rows: list[tuple[int, bytes]] = []
            room = max_bytes
            while self._scalars and (not scalars or _size(*self._scalars[0][2:]) <= room):
                scalars.append(self._scalars.popleft())
                room -= _size(*scalars[-1][2:])
            while self._rows and (not (scalars or rows) or _size(self._rows[0][-1]) <= room):
                rows.append(self._rows.popleft())
                room -= _size(rows[-1][-1])
            if not scalars and not rows:
                return None
            rows.sort(key=lambda item: item[0])  # rows from before an alarm come late
            self._taken = RecordChunk(
                _pack_scalars(scalars),
                _pack_rows(rows, self._parameters),
                len(scalars) + len(rows),
                max_bytes - room,
                {step: batch_id for step, _, _, batch_id in scalars if batch_id is not None},
            )
            return self._taken

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
            scalars, rows = _unpack(self._taken)
            self._scalars.extendleft(reversed(scalars))
            self._rows.extendleft(reversed(rows))
            self._waiting_bytes += sum(_size(*record[2:]) for record in scalars) + sum(_size(data) for _, data in rows)
            self._waiting_bytes -= self._taken.size_bytes
            self._taken = None

    def _added(self, size_bytes: int) -> None:
        self._produced += 1
        self._waiting_bytes += size_bytes
        while self._waiting_bytes > self._cap_bytes and (self._scalars or self._rows):
            self._thin()

    def _thin(self) -> None:
        """Make room: every second step's rows first, the oldest scalars only when no rows are left."""
        if self._rows:
            everything = list(self._rows)
            self._rows, gone = deque(everything[1::2]), everything[::2]
            self._waiting_bytes -= sum(_size(data) for _, data in gone)
            self._dropped += len(gone)
        else:
            _, _, data, batch_id = self._scalars.popleft()
            self._waiting_bytes -= _size(data, batch_id)
            self._dropped += 1


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


def _unpack(chunk: RecordChunk) -> tuple[list[_Scalars], list[tuple[int, bytes]]]:
    scalars: list[_Scalars] = []
    if chunk.scalars is not None:
        numbers = _parts(chunk.scalars.data, len(chunk.scalars.steps))
        for step, time, data in zip(chunk.scalars.steps, chunk.scalars.time_values(), numbers, strict=True):
            scalars.append((step, time, data, chunk.batch_ids.get(step)))
    rows = chunk.rows
    return scalars, [] if rows is None else list(zip(rows.steps, _parts(rows.data, len(rows.steps)), strict=True))


def _parts(data: bytes, count: int) -> list[bytes]:
    size = len(data) // count
    return [data[at : at + size] for at in range(0, len(data), size)]
