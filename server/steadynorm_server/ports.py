"""Ports to listen on: the one that was asked for, the default, or any free one."""

from __future__ import annotations

import socket
from collections.abc import Callable

from steadynorm_server.cli import CommandError

__all__ = ["choose_port"]


def choose_port(host: str, wanted: int | None, default: int, tell: Callable[[str], None], taken: int = 0) -> int:
    """A port to listen on. A port that was asked for must be free; the default gives way, and `tell` hears of it.

    taken: a port that is given out already. Raises CommandError.
    """
    if wanted:
        if _is_free(host, wanted):
            return wanted
        raise CommandError(f"port {wanted} on {host} is in use by another program. Choose another, or 0 for any.")
    if wanted is None and default != taken and _is_free(host, default):
        return default
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    if wanted is None:
        tell(f"port {default} is in use by another program: using {port}")
    return port


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
