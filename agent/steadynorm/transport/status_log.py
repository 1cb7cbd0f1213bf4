"""What people are told, in the log, of a server that is away or refuses: each thing once, and that it is over."""

from __future__ import annotations

import logging

from steadynorm.transport.http_client import (
    BatchRefused,
    Outdated,
    Refused,
    RunLost,
    TransportError,
    VersionRefused,
)

__all__ = ["ConnectionLog"]

_log = logging.getLogger("steadynorm")


class ConnectionLog:
    """Of one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._last = ""
        self._last_refusal = ""

    def failed(self, error: TransportError) -> None:
        """A request failed; it will be tried again unless the log says otherwise."""
        kind = str(error) if isinstance(error, Refused) else type(error).__name__
        if kind == self._last:
            return
        self._last = kind
        if isinstance(error, VersionRefused):
            _log.error("nothing more is sent to %s; training goes on. %s", self._server, error)
        elif isinstance(error, Refused):
            _log.error("%s refuses this run's data, which is kept; training goes on. %s", self._server, error)
        elif isinstance(error, RunLost | Outdated):
            _log.info("registering again with %s: %s", self._server, error)
        else:
            _log.warning(
                "%s cannot be reached; training goes on, and data is kept and sent later. %s", self._server, error
            )

    def refused(self, error: BatchRefused, dropped: int) -> None:
        """A batch with so many records was given up."""
        if str(error) != self._last_refusal:
            self._last_refusal = str(error)
            _log.error("%s refuses a batch: %d records are dropped; training goes on. %s", self._server, dropped, error)

    def too_large(self, error: BatchRefused, load_bytes: int) -> None:
        """Nothing is lost: batches are smaller from now on."""
        _log.info("sending %s batches of at most %d bytes from now on: %s", self._server, load_bytes, error)

    def recovered(self) -> None:
        """A request was answered."""
        if self._last:
            self._last = ""
            _log.info("%s takes data again", self._server)

    def ended(self, error: TransportError, left: int) -> None:
        """The run ended with so many records unsent."""
        _log.warning("the run ended with %d records that %s did not take: %s", left, self._server, error)
