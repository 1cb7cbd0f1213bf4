"""Where webhooks may go. The server's own administrator writes their addresses: this guards against slips.

Private networks are good: receivers live there. Link-local ones are not: clouds hand credentials out at
169.254.169.254.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["host_of", "is_forbidden"]

_METADATA = {
    "metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal",
    "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
}  # fmt: skip


def host_of(url: str) -> tuple[str, int]:
    """Host and port of an http:// or https:// address. Raises ValueError."""
    parts = urlsplit(url)
    return (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)


def is_forbidden(host: str) -> bool:
    """Whether a host, by name or by address, is none that a message may go to."""
    if host.lower() in _METADATA:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return is_forbidden(str(address.ipv4_mapped))
    return address.is_link_local or address.is_multicast or address.is_unspecified
