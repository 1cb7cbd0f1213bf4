"""Run the server in this process until it is told to stop."""

from __future__ import annotations

from steadynorm_server.config import ServerSettings

__all__ = ["ServeError", "serve"]


class ServeError(Exception):
    """The server cannot start. The text says why and what to do."""


def serve(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM. Raises ServeError when it cannot start."""
    raise ServeError("not wired yet")
