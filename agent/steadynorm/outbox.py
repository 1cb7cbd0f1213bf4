"""Batches under their identity (run, incarnation, sequence): kept until acknowledged, resent as the very same bytes."""

from __future__ import annotations

from steadynorm.buffer import Buffer
from steadynorm.mailbox import Mailbox
from steadynorm_contract.codec import encode_batch
from steadynorm_contract.records import MAX_BATCH_BYTES, TelemetryBatch

__all__ = ["Outbox"]

_ENVELOPE_BYTES = 128 * 1024  # left for all of a batch that is not records
_MOST_REPORTS = 50  # of revisions, in one batch: far below the envelope


class Outbox:
    """One batch at a time, from the buffer and the reports. Lives in the publisher's thread."""

    def __init__(self, buffer: Buffer, mailbox: Mailbox) -> None:
        self.incarnation = 0
        self._sequence = 0  # of the last batch that was acknowledged
        self._pending: TelemetryBatch | None = None
        self._body: bytes | None = None
        self._told_errors = 0
        self._buffer = buffer
        self._mailbox = mailbox

    def resume(self, incarnation: int, acknowledged: int) -> None:
        """Go by what the server answered to a registration: this incarnation, stored up to that sequence."""
        same = incarnation == self.incarnation
        self.incarnation, self._sequence = incarnation, acknowledged
        pending = self._pending
        if pending is None:
            return
        if same and acknowledged >= pending.sequence:  # it had arrived, and only the answer was lost
            self._settle()
        elif not same or acknowledged + 1 != pending.sequence:  # the server forgot: the batch needs a new identity
            pending.incarnation, pending.sequence = incarnation, acknowledged + 1
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

    def discard(self) -> None:
        """Give the pending batch up."""
        self._buffer.unload(acknowledged=False)
        self._pending = self._body = None

    def _settle(self) -> None:
        self._buffer.unload(acknowledged=True)
        self._pending = self._body = None

    def _compose(self) -> TelemetryBatch | None:
        reports = self._mailbox.reports(_MOST_REPORTS)
        load = self._buffer.load(MAX_BATCH_BYTES - _ENVELOPE_BYTES)
        counters = self._buffer.counters
        notes = self._mailbox.notes()
        if load is None and not reports and not notes and counters.errors == self._told_errors:
            return None
        self._told_errors = counters.errors
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
