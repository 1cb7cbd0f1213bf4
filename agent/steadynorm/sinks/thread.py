"""A sink's own thread, with a bounded queue before it: whatever the sink does, who puts never waits."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from steadynorm.lifecycle import described
from steadynorm.sinks.base import Row, RunInfo, Sink, SinkEvent, Tool

MAX_VALUES = 200_000
"""Numbers that may wait for a sink: 15,000 steps of the fixed scalars, about 25 MB."""
MAX_EVENTS = 500
HUNG_S = 30.0
"""A call that takes so long is told of."""
CLOSE_S = 5.0
"""For all sinks of an agent, in `close()`."""
_ROWS_AT_ONCE = 256
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0

_log = logging.getLogger("steadynorm")


@dataclass(frozen=True, slots=True)
class SinkState:
    """What became of a sink's rows and events. dropped: by reason: `queue full`, `error`, `closed`."""

    name: str
    written: int
    waiting: int
    dropped: dict[str, int]
    trouble: str = ""  # the first error, or that it does not answer

    def __str__(self) -> str:
        lost = ", ".join(f"{count} dropped ({reason})" for reason, count in self.dropped.items())
        return ", ".join(part for part in (f"{self.name}: {self.written} written", lost, self.trouble) if part)


class SinkThread:
    """One sink. report: told of its trouble, once: a name for it and a sentence."""

    def __init__(self, sink: Sink, report: Callable[[str, str], None]) -> None:
        self.name = type(sink).__name__
        self._sink, self._report = sink, report
        self._rows: deque[Row] = deque()
        self._events: deque[SinkEvent] = deque()
        self._values = 0  # in the rows that wait
        self._lock = threading.Lock()  # of the queue and its counts; never held while the sink is called
        self._wake = threading.Event()
        self._end: str | None = None
        self._ended = threading.Event()
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._trouble = ""
        self._called_at: float | None = None  # monotonic seconds, while the sink is called
        self._run: RunInfo | None = None
        self._prepare: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None

    # Any thread.

    @property
    def state(self) -> SinkState:
        """As of now."""
        with self._lock:
            waiting = len(self._rows) + len(self._events)
            return SinkState(self.name, self._written, waiting, dict(self._dropped), self._trouble)

    @property
    def dropped(self) -> int:
        """Rows and events."""
        with self._lock:
            return self._dropped.total()

    def start(self, run: RunInfo, prepare: Callable[[], None] = lambda: None) -> None:
        """The first step begins: in the training thread. prepare: called in the sink's."""
        if isinstance(self._sink, Tool):
            try:
                self._sink.find_active()
            except Exception as error:
                self._tell(described(error))
        self._run, self._prepare = run, prepare
        self._thread = threading.Thread(target=self._work, name=f"steadynorm-sink-{self.name}", daemon=True)
        self._thread.start()

    def put(self, rows: Sequence[Row], events: Sequence[SinkEvent] = ()) -> None:
        """Queue these. Where the queue is full the oldest are dropped."""
        with self._lock:
            if self._end is not None:
                self._dropped["closed"] += len(rows) + len(events)
                return
            self._rows.extend(rows)
            self._values += sum(len(row.scalars) for row in rows)
            self._events.extend(events)
            while self._values > MAX_VALUES:
                self._values -= len(self._rows.popleft().scalars)
                self._dropped["queue full"] += 1
            while len(self._events) > MAX_EVENTS:
                self._events.popleft()
                self._dropped["queue full"] += 1
        self._wake.set()
        began = self._called_at
        if began is not None and monotonic() - began > HUNG_S:
            self._tell(f"it has not answered for {HUNG_S:.0f} s")

    def end(self, state: str) -> None:
        """Write what waits, then close the sink."""
        with self._lock:
            self._end = self._end or state
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Of a thread that is to end. What it has not written by then is its own matter, and told."""
        if self._thread is None or self._ended.wait(timeout_s):
            return
        _log.warning(
            "sink %s had %d rows and events left when the agent closed: it goes on for as long as the process runs.",
            *(self.name, self.state.waiting),
        )

    # The thread.

    def _work(self) -> None:
        pause_s, opened = 0.0, False
        self._prepare()
        while True:
            self._pause(pause_s)
            is_last = self._end is not None  # before the queue is read: what is put later counts as closed
            rows, events = self._take() if opened else ([], [])
            if opened and not rows and not events:
                if is_last:
                    break
                self._wake.wait()
                self._wake.clear()
                continue
            try:
                self._called_at = monotonic()
                if opened:
                    self._write(rows, events)
                else:
                    self._call("open", self._run)
                pause_s, opened = 0.0, True
            except BaseException as error:  # SystemExit too: nobody else would count what is left
                self._tell(described(error)[:300])
                if not opened and self._end is not None:  # nobody waits for another attempt
                    break
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s or _FIRST_PAUSE_S)
            finally:
                self._called_at = None
        self._finish(opened)

    def _pause(self, pause_s: float) -> None:
        if not pause_s:
            return
        until = monotonic() + pause_s
        while self._end is None and (left_s := until - monotonic()) > 0:
            self._wake.wait(left_s)
            self._wake.clear()
        self._wake.set()  # a put() meanwhile must not be missed

    def _take(self) -> tuple[list[Row], list[SinkEvent]]:
        with self._lock:
            rows = [self._rows.popleft() for _ in range(min(_ROWS_AT_ONCE, len(self._rows)))]
            self._values -= sum(len(row.scalars) for row in rows)
            events = list(self._events)
            self._events.clear()
            return rows, events

    def _write(self, rows: Sequence[Row], events: Sequence[SinkEvent]) -> None:
        """Each of them is counted, whatever is raised. Raises the first error, after all were tried."""
        errors: list[BaseException] = []
        if isinstance(self._sink, Tool):
            if rows:
                self._count(len(rows), errors, self._sink.write_rows, rows)
        else:
            for row in rows:
                self._count(1, errors, self._sink.write, row.step, dict(row.scalars))  # other sinks have them too
        for event in events if hasattr(self._sink, "event") else ():
            self._count(1, errors, self._call, "event", event)
        if errors:
            raise errors[0]

    def _count(self, items: int, errors: list[BaseException], call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except BaseException as error:
            errors.append(error)
            with self._lock:
                self._dropped["error"] += items
        else:
            with self._lock:
                self._written += items

    def _finish(self, opened: bool) -> None:
        try:
            self._called_at = monotonic()
            if opened:
                self._call("close", self._end or "")
        except BaseException as error:
            self._tell(described(error)[:300])
        finally:
            self._called_at = None
            with self._lock:
                self._dropped["closed"] += len(self._rows) + len(self._events)
                self._dropped += Counter()  # without those that are 0
                self._rows.clear()
                self._events.clear()
            self._ended.set()

    def _call(self, method: str, *arguments: Any) -> None:
        """What an own sink need not have."""
        found = getattr(self._sink, method, None)
        if found is not None:
            found(*arguments)

    def _tell(self, trouble: str) -> None:
        if self._trouble:
            return
        self._trouble = trouble
        self._report(
            f"sink_{self.name.lower()}",
            f"sink {self.name} loses what it is given: {trouble}. Training goes on as before, and so does the record "
            "at the server. What is lost is counted in agent.health().",
        )
