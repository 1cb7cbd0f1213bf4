"""Batches with an identity (run, incarnation, sequence): held until acknowledged, resent as the same bytes."""

from __future__ import annotations

import msgspec

from steadynorm.mailbox import Mailbox
from steadynorm.transport.send_buffer import RecordChunk, SendBuffer
from steadynorm_contract.codec import encode_batch
from steadynorm_contract.scalars import ScalarDescription
from steadynorm_contract.settings import without_later
from steadynorm_contract.telemetry import (
    MAX_BATCH_BYTES,
    AgentCounters,
    AgentNote,
    AppliedReport,
    TelemetryBatch,
    UserNote,
)

_ENVELOPE_BYTES = 128 * 1024  # reserved for the parts of a batch that are not records
_MIN_CHUNK_BYTES = 64 * 1024
_MAX_USER_NOTES = 10  # in one batch: 80 KB of text at most
_MAX_DESCRIBED = 50  # scalars in one batch: as much again
_MAX_REPORTS = 50  # of revisions in one batch: far below the envelope


class BatchBuilder:
    """Builds one batch at a time, from the buffer and the mailbox. Lives in the publisher's thread."""

    def __init__(self, buffer: SendBuffer, mailbox: Mailbox) -> None:
        self.incarnation = 0
        self.chunk_bytes = MAX_BATCH_BYTES - _ENVELOPE_BYTES  # the most of one chunk
        self.without_later = False  # the server is older than LATER_SETTINGS
        self._sequence = 0  # of the last acknowledged batch
        self._pending: TelemetryBatch | None = None
        self._chunk: RecordChunk | None = None  # in the pending batch
        self._body: bytes | None = None
        self._reports: list[AppliedReport] = []  # of the pending batch, or, after it was rejected, of the next
        self._notes: list[AgentNote] = []
        self._user_notes: list[UserNote] = []
        self._described: dict[str, ScalarDescription] = {}  # that the server has, or will not take
        self._without_records = False  # the next batch, since a server rejected its records
        self._buffer = buffer
        self._mailbox = mailbox
        # Counters since the process began: as in the pending batch, as last stored by the server, and as at the start
        # of this incarnation.
        self._reported = self._stored = self._base = AgentCounters()

    def resume(self, incarnation: int, acknowledged: int, previous: int | None = None) -> None:
        """Continue as the server answered a registration: this incarnation, stored up to that sequence.

        previous: the last sequence stored of the incarnation before; None: not known.
        """
        pending, same = self._pending, incarnation == self.incarnation
        stored = acknowledged if same else -1 if previous is None else previous
        # First what may fail: after an error the run is registered again, and this starts over.
        if pending is not None and stored >= pending.sequence:  # it had arrived, and only the response was lost
            pending = None
            self._finish_pending()
        if not same:
            self._described = {}
            self._base = msgspec.structs.replace(self._stored, acknowledged=self._buffer.counters.acknowledged)
        counters = self._count()
        self.incarnation, self._sequence = incarnation, acknowledged
        if pending is not None and (not same or acknowledged + 1 != pending.sequence):
            # The server does not have it and cannot accept it as it is: it needs a new identity.
            pending.incarnation, pending.sequence = incarnation, acknowledged + 1
            pending.counters = counters
            self._body = None

    def next_body(self) -> bytes | None:
        """The bytes to send now; None when there is nothing to send."""
        if self._pending is None:
            self._pending = self._build()
        if self._pending is not None and self._body is None:
            self._body = encode_batch(self._pending)
        return self._body

    def acknowledge(self, sequence: int) -> bool:
        """The server has stored everything up to `sequence`. False if that does not include the pending batch."""
        if self._pending is None or sequence < self._pending.sequence:
            return False
        sequence = self._pending.sequence
        self._finish_pending()
        self._sequence = sequence
        return True

    def discard(self) -> int:
        """Drop the pending batch's records. Returns how many there were.

        Its reports and notes are sent once more, without records; if that is rejected too, they are dropped.
        """
        records = self._chunk.records if self._chunk else 0
        self._buffer.release(acknowledged=False)
        self._return_pending()
        return records

    def split(self) -> bool:
        """The pending batch is too large: send its records, and all later ones, in smaller chunks.

        False if it cannot be split, and is still pending.
        """
        chunk = self._chunk
        if chunk is None:
            return False
        self.chunk_bytes = max(_MIN_CHUNK_BYTES, min(self.chunk_bytes, chunk.size_bytes) // 2)
        if chunk.records == 1 or chunk.size_bytes <= self.chunk_bytes:
            return False
        self._buffer.put_back()
        self._return_pending()
        return True

    def _finish_pending(self) -> None:
        self._buffer.release(acknowledged=True)
        self._stored = self._reported
        self._described |= self._pending.described if self._pending is not None else {}
        self._pending = self._chunk = self._body = None
        self._reports, self._notes, self._user_notes, self._without_records = [], [], [], False

    def _return_pending(self) -> None:
        if self._pending is not None:  # else it was being built
            if self._chunk is None:
                self._described |= self._pending.described
            self._without_records = self._chunk is not None and bool(self._reports or self._notes or self._user_notes)
            if not self._without_records:
                self._reports, self._notes, self._user_notes = [], [], []
        self._pending = self._chunk = self._body = None

    def _count(self) -> AgentCounters:
        """Counters since this incarnation began; what was buffered then counts as produced in it."""
        lost, base = self._mailbox.sinks_dropped(), self._base
        now = msgspec.structs.replace(self._buffer.counters, sinks_dropped=lost)
        self._reported = now
        acknowledged, dropped = now.acknowledged - base.acknowledged, now.dropped - base.dropped
        return AgentCounters(
            acknowledged + dropped + now.buffered,
            acknowledged,
            dropped,
            now.buffered,
            now.errors - base.errors,
            now.sending_errors - base.sending_errors,
            now.sinks_dropped - base.sinks_dropped,
        )

    def _build(self) -> TelemetryBatch | None:
        if not self._without_records:
            self._reports = self._reports or self._mailbox.reports(_MAX_REPORTS)
            self._notes = self._notes or self._mailbox.notes()
            self._user_notes = self._user_notes or self._mailbox.user_notes(_MAX_USER_NOTES)
            self._chunk = self._buffer.take(self.chunk_bytes)
        chunk, reported_errors = self._chunk, self._reported.errors
        counters = self._count()
        known = self._described
        new = [(name, each) for name, each in self._mailbox.described.items() if known.get(name) != each]
        described = dict(new[:_MAX_DESCRIBED])
        said = self._reports or self._notes or self._user_notes or described
        if chunk is None and not said and self._reported.errors == reported_errors:
            return None
        return TelemetryBatch(
            incarnation=self.incarnation,
            sequence=self._sequence + 1,
            scalars=chunk.scalars if chunk else None,
            rows=chunk.rows if chunk else None,
            applied=[_without_later(each) for each in self._reports] if self.without_later else self._reports,
            counters=counters,
            notes=self._notes,
            user_notes=self._user_notes,
            batch_ids=chunk.batch_ids if chunk else {},
            recovery=self._mailbox.recovery,
            logged=chunk.logged if chunk else [],
            described=described,
        )


def _without_later(report: AppliedReport) -> AppliedReport:
    return msgspec.structs.replace(report, settings=without_later(report.settings))
