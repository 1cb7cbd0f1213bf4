"""The second background thread: a long-poll, so that a change of settings arrives at once."""

from __future__ import annotations

import logging
import threading
from time import monotonic

from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import Transport, TransportError, Unreachable
from steadynorm.transport.mailbox import Mailbox

__all__ = ["Listener"]

WAIT_S = 25
SHORTEST_S = 1.0  # between two questions that brought nothing: a server that does not wait must not be flooded

_log = logging.getLogger("steadynorm")


class Listener:
    """Asks for newer settings and puts them into the mailbox. Settings also come with each telemetry answer."""

    def __init__(self, transport: Transport, mailbox: Mailbox, backoff: Backoff | None = None) -> None:
        self._transport = transport
        self._mailbox = mailbox
        self._backoff = backoff or Backoff()
        self._run_id = ""
        self._ready = threading.Event()
        self._closing = threading.Event()

    def start(self) -> None:
        """Start the thread; it waits for `listen()`."""
        threading.Thread(target=self._run, name="steadynorm-listener", daemon=True).start()

    def listen(self, run_id: str) -> None:
        """The server knows the run now."""
        self._run_id = run_id
        self._ready.set()

    def pause(self) -> None:
        """The server does not know the run."""
        self._ready.clear()

    def close(self) -> None:
        """End the thread and its request."""
        self._closing.set()
        self._ready.set()
        self._transport.abort()

    def _run(self) -> None:
        while self._ready.wait() and not self._closing.is_set():
            asked = monotonic()
            try:
                offer = self._transport.poll(self._run_id, self._mailbox.seen_revision, WAIT_S)
                self._backoff.reset()
                if offer is not None:
                    self._mailbox.offer(offer)
                    continue
                wait_s = SHORTEST_S - (monotonic() - asked)
            except TransportError as error:  # the publisher tells people
                wait_s = self._backoff.next_s(error.retry_after_s if isinstance(error, Unreachable) else None)
            except Exception:
                _log.exception("the agent met an internal error while listening; training goes on")
                wait_s = self._backoff.slow_s()
            if wait_s > 0:
                self._closing.wait(wait_s)
        self._transport.close()
