"""The second background thread: long-polls the server, so that a change of settings arrives at once."""

from __future__ import annotations

import logging
import threading
from time import monotonic

from steadynorm.mailbox import Mailbox
from steadynorm.transport.backoff import Backoff
from steadynorm.transport.http_client import HttpClient, ServerUnavailable, TransportError

WAIT_S = 25
MIN_INTERVAL_S = 1.0  # between two polls without an update: a server that does not wait must not be flooded

_log = logging.getLogger("steadynorm")


class SettingsPoller:
    """Polls for newer settings and puts them into the mailbox. They also come with each telemetry response."""

    def __init__(self, transport: HttpClient, mailbox: Mailbox, backoff: Backoff | None = None) -> None:
        self._client = transport
        self._mailbox = mailbox
        self._backoff = backoff or Backoff()
        self._run_id = ""
        self._ready = threading.Event()
        self._closing = threading.Event()

    def start(self) -> None:
        """Start the thread; it waits for `resume()`."""
        threading.Thread(target=self._run, name="steadynorm-settings-poller", daemon=True).start()

    def resume(self, run_id: str) -> None:
        """The server knows the run now: poll."""
        self._run_id = run_id
        self._ready.set()

    def pause(self) -> None:
        """The server does not know the run: do not poll."""
        self._ready.clear()

    def close(self) -> None:
        """End the thread and its request."""
        self._closing.set()
        self._ready.set()
        self._client.abort()

    def _run(self) -> None:
        while self._ready.wait() and not self._closing.is_set():
            started = monotonic()
            try:
                update = self._client.poll(self._run_id, self._mailbox.seen_revision, WAIT_S)
                self._backoff.reset()
                if update is not None:
                    self._mailbox.put(update)
                    continue
                wait_s = MIN_INTERVAL_S - (monotonic() - started)
            except TransportError as error:  # the publisher logs it
                wait_s = self._backoff.next_s(error.retry_after_s if isinstance(error, ServerUnavailable) else None)
            except Exception:
                _log.exception("the agent met an internal error while polling for settings; training continues")
                wait_s = self._backoff.slow_s()
            if wait_s > 0:
                self._closing.wait(wait_s)
        self._client.close()
