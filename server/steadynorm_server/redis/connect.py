"""Which client speaks to the Redis of an address: its scheme says whether it is a cluster, or behind Sentinels."""

from contextlib import nullcontext

from steadynorm_server.redis.address import StoreAddress
from steadynorm_server.redis.client import RedisClient, Timed
from steadynorm_server.redis.cluster import ClusterClient
from steadynorm_server.redis.sentinel import SentinelClient


def connect(url: str, timed: Timed = nullcontext) -> RedisClient:
    """A client that connects when it is first used. Raises RedisAddressError."""
    address = StoreAddress.parse(url)
    if address.kind == "cluster":
        return ClusterClient(address, timed)
    if address.kind == "sentinel":
        return SentinelClient(address, timed)
    return RedisClient(url, timed)
