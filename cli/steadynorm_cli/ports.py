"""Ports to listen on: the one that was asked for, the default, or any free one."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

from steadynorm_cli.errors import CommandError

__all__ = ["choose_port"]

_UNASSIGNED = range(20_000, 32_768)
"""Below what Linux gives to connections that go out and to sockets that ask for any port."""


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
    port = _any_free(host)
    if wanted is None:
        tell(f"port {default} is in use by another program: using {port}")
    return port


def _any_free(host: str) -> int:
    """One that nobody is given by chance before it is listened on: the kernel's own choices lie elsewhere."""
    for port in random.sample(_UNASSIGNED, 20):
        if _is_free(host, port):
            return port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        found: int = probe.getsockname()[1]
    return found


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
