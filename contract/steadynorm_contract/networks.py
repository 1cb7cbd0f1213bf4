"""Which addresses are those of proxies that say who has signed in: `10.1.2.3, 10.4.0.0/16`."""

import ipaddress

__all__ = ["Network", "is_within", "read_networks"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_FEWEST_BITS = {4: 8, 6: 16}
"""Of a network's prefix: larger ones would hold the internet."""


def read_networks(text: str, variable: str = "STEADYNORM_TRUSTED_PROXY") -> list[Network]:
    """Addresses and networks, separated by commas. Raises ValueError, which names the variable."""
    found: list[Network] = []
    for each in (part.strip() for part in text.split(",")):
        if not each:
            continue
        try:
            network = ipaddress.ip_network(each, strict=False)
        except ValueError:
            raise ValueError(
                f"{variable} must list addresses or networks, as 10.1.2.3 or 10.1.0.0/16: got {each!r}."
            ) from None
        if network.prefixlen < _FEWEST_BITS[network.version]:
            raise ValueError(f"{variable} must name your proxy: {each} would let half the internet say who it is.")
        found.append(network)
    return found


def is_within(peer: str | None, networks: list[Network]) -> bool:
    """Whether the address is in one of them; no address is in none."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address  # of a socket that takes both
    return any(address in network for network in networks)
