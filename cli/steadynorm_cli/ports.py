"""Ports to listen on: the requested one, the default, or any free one."""

import random
import socket
from collections.abc import Callable

from steadynorm_cli.errors import CommandError

_UNASSIGNED = range(20_000, 32_768)
"""Below the range from which Linux assigns ports to outgoing connections and to port 0."""


def choose_port(
    host: str, requested: int | None, default: int, on_message: Callable[[str], None], taken: int = 0
) -> int:
    """A port to listen on. A requested port must be free; in place of a default that is in use any free one is taken.

    requested: None: the default; 0: any free port. on_message: called when the default is in use. taken: a port that is
    reserved already. Raises CommandError.
    """
    if requested:
        if is_free(host, requested):
            return requested
        raise CommandError(f"port {requested} on {host} is in use by another program. Choose another, or 0 for any.")
    if requested is None and default != taken and is_free(host, default):
        return default
    port = _any_free(host)
    if requested is None:
        on_message(f"port {default} is in use by another program: using {port}")
    return port


def _any_free(host: str) -> int:
    """A free port outside the kernel's range, so that it is not assigned to another program before it is bound."""
    for port in random.sample(_UNASSIGNED, 20):
        if is_free(host, port):
            return port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        found: int = probe.getsockname()[1]
    return found


def is_free(host: str, port: int) -> bool:
    """Whether a program could listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
