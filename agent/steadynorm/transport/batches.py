"""Batches under their identity (run, incarnation, sequence): kept until acknowledged, resent as the very same bytes."""

from __future__ import annotations

import msgspec

from steadynorm.transport.mailbox import Mailbox
from steadynorm.transport.send_buffer import Buffer, Load
from steadynorm_contract.codec import encode_batch
from steadynorm_contract.telemetry import MAX_BATCH_BYTES, AgentCounters, TelemetryBatch

__all__ = ["BatchBuilder"]

_ENVELOPE_BYTES = 128 * 1024  # left for all of a batch that is not records
_SMALLEST_LOAD_BYTES = 64 * 1024
_MOST_REPORTS = 50  # of revisions, in one batch: far below the envelope


class BatchBuilder:
    """One batch at a time, from the buffer and the reports. Lives in the publisher's thread."""

    def __init__(self, buffer: Buffer, mailbox: Mailbox) -> None:
        self.incarnation = 0
        self.load_bytes = MAX_BATCH_BYTES - _ENVELOPE_BYTES  # the most of one load
        self._sequence = 0  # of the last batch that was acknowledged
        self._pending: TelemetryBatch | None = None
        self._load: Load | None = None  # in the pending batch
        self._body: bytes | None = None
        self._returned: TelemetryBatch | None = None  # was not taken; its reports and notes have to go out again
        self._buffer = buffer
        self._mailbox = mailbox
        # The account since the process began: as the pending batch tells it, as the server last stored it, and as this
        # incarnation began.
        self._told = self._stored = self._base = AgentCounters()

    def resume(self, incarnation: int, acknowledged: int, previous: int | None = None) -> None:
        """Go by what the server answered to a registration: this incarnation, stored up to that sequence.

        previous: the last sequence stored of the incarnation before; None: not known.
        """
        pending, same = self._pending, incarnation == self.incarnation
        stored = acknowledged if same else -1 if previous is None else previous
        self.incarnation, self._sequence = incarnation, acknowledged
        if pending is not None and stored >= pending.sequence:  # it had arrived, and only the answer was lost
            pending = None
            self._settle()
        if not same:
            self._base = msgspec.structs.replace(self._stored, acknowledged=self._buffer.counters.acknowledged)
        if pending is not None and (not same or acknowledged + 1 != pending.sequence):
            # The server has not got it and cannot take it as it is: it needs a new identity.
            pending.incarnation, pending.sequence = incarnation, acknowledged + 1
            pending.counters = self._count()
            self._body = None

    def next_body(self) -> bytes | None:
        """The bytes to send now; None when there is nothing to say."""
        if self._pending is None:
            self._pending = self._compose()
        if self._pending is not None and self._body is None:
            self._body = encode_batch(self._pending)
        return self._body

    def acknowledge(self, sequence: int) -> bool:
        """The server has stored everything up to `sequence`. False if that leaves the pending batch out."""
        if self._pending is None or sequence < self._pending.sequence:
            return False
        self._sequence = self._pending.sequence
        self._settle()
        return True

    def discard(self) -> int:
        """Give the pending batch's records up. Returns how many there were.

        What else was in it goes out once more, alone: if that cannot be sent either, it is given up too.
        """
        records = self._load.records if self._load else 0
        self._buffer.unload(acknowledged=False)
        self._take_back()
        return records

    def split(self) -> bool:
        """The pending batch is too large: send its records, and all later ones, in smaller loads.

        False if it cannot be split, and is still pending.
        """
        load = self._load
        if load is None:
            return False
        self.load_bytes = max(_SMALLEST_LOAD_BYTES, min(self.load_bytes, load.size_bytes) // 2)
        if load.records == 1 or load.size_bytes <= self.load_bytes:
            return False
        self._buffer.put_back()
        self._take_back()
        return True

    def _settle(self) -> None:
        self._buffer.unload(acknowledged=True)
        self._stored = self._told
        self._pending = self._load = self._body = None

    def _take_back(self) -> None:
        if self._load is not None:
            self._returned = self._pending
        self._pending = self._load = self._body = None

    def _count(self) -> AgentCounters:
        """The account since this incarnation began; what was buffered then is produced in it."""
        now, base = self._buffer.counters, self._base
        self._told = now
        acknowledged, dropped = now.acknowledged - base.acknowledged, now.dropped - base.dropped
        return AgentCounters(
            acknowledged + dropped + now.buffered,
            acknowledged,
            dropped,
            now.buffered,
            now.errors - base.errors,
            now.sending_errors - base.sending_errors,
        )

    def _compose(self) -> TelemetryBatch | None:
        returned, self._returned = self._returned, None
        if returned is not None and (returned.applied or returned.notes):
            reports, notes = returned.applied, returned.notes
        else:
            reports, notes = self._mailbox.reports(_MOST_REPORTS), self._mailbox.notes()
            self._load = self._buffer.load(self.load_bytes)
        load, told_errors = self._load, self._told.errors
        counters = self._count()
        if load is None and not reports and not notes and self._told.errors == told_errors:
            return None
        return TelemetryBatch(
            incarnation=self.incarnation,
            sequence=self._sequence + 1,
            scalars=load.scalars if load else None,
            rows=load.rows if load else None,
            applied=reports,
            counters=counters,
            notes=notes,
            batch_ids=load.batch_ids if load else {},
        )
