"""Log messages about a server that is unreachable or rejects data: each problem once, and its end."""

from __future__ import annotations

import logging

from steadynorm.transport.http_client import (
    BatchRejected,
    RequestRejected,
    RunNotFound,
    StaleIncarnation,
    TransportError,
)
from steadynorm_contract.words import counted

MAX_REJECTIONS = 20
"""Lines about what a server refuses."""

_log = logging.getLogger("steadynorm")


class ConnectionLog:
    """The connection to one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._last = ""
        self._last_rejection = ""
        self._rejections = 0  # that were told
        self._told_no_scalars = False
        self._told_no_knobs = False

    def failed(self, error: TransportError, *, final: bool = False) -> None:
        """A request failed. final: nothing is sent any more; else it is retried."""
        kind = str(error) if isinstance(error, RequestRejected) else type(error).__name__
        if kind == self._last or not (final or self._is_worth_a_line(error)):
            return
        self._last = kind
        if final:
            _log.error("nothing more is sent to %s; training continues. %s", self._server, error)
        elif isinstance(error, RequestRejected):
            _log.error("%s rejects this run's data, which is buffered; training continues. %s", self._server, error)
        elif isinstance(error, RunNotFound | StaleIncarnation):
            _log.info("registering again with %s: %s", self._server, error)
        else:
            _log.warning(
                "%s cannot be reached; training continues, and data is buffered and sent later. %s", self._server, error
            )

    def rejected(self, error: BatchRejected, dropped: int) -> None:
        """A batch with so many records was dropped."""
        if str(error) != self._last_rejection and self._is_worth_a_line(error):
            self._last_rejection = str(error)
            _log.error(
                "%s rejects a batch; %s dropped; training continues. %s",
                self._server,
                counted(dropped, "record"),
                error,
            )

    def _is_worth_a_line(self, error: TransportError) -> bool:
        """A server whose every refusal has another text must not fill the job's log."""
        self._rejections += isinstance(error, RequestRejected)
        return self._rejections <= MAX_REJECTIONS or not isinstance(error, RequestRejected)

    def too_large(self, error: BatchRejected, chunk_bytes: int) -> None:
        """Nothing is lost: batches are smaller from now on."""
        _log.info("sending %s batches of at most %d bytes from now on: %s", self._server, chunk_bytes, error)

    def no_scalars(self) -> None:
        """The server is of a version that does not store them."""
        if not self._told_no_scalars:
            self._told_no_scalars = True
            _log.warning(
                "%s is too old to store scalars other than the loss: agent.log() drops them. Upgrade the server.",
                self._server,
            )

    def no_knobs(self) -> None:
        """The server is of a version that has none of them."""
        if not self._told_no_knobs:
            self._told_no_knobs = True
            _log.warning(
                "%s is too old for knobs: those of this run keep their values, and nobody can turn them. Upgrade the "
                "server.",
                self._server,
            )

    def recovered(self) -> None:
        """A request succeeded."""
        if self._last:
            self._last = ""
            _log.info("%s accepts data again", self._server)

    def ended(self, error: TransportError, left: int) -> None:
        """The run ended with so many records unsent."""
        _log.warning("the run ended with %s unsent to %s: %s", counted(left, "record"), self._server, error)
