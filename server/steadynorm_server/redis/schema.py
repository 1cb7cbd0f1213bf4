"""The version of what is stored: a server does not work on data that only a later one understands."""

from typing import Any

from steadynorm_contract import __version__
from steadynorm_server.redis_errors import NewerSchemaError

SCHEMA = 1
"""Raised with a change that servers before it misread. What they merely do not know, such as a new field, is none."""

KEY = "steadynorm:schema"
"""String: the version, a space, and the steadynorm that wrote it first."""


async def claim(redis: Any) -> None:  # redis-py's own types allow str everywhere
    """Note this server's schema where Redis has none or an older one. Raises NewerSchemaError where it has a newer."""
    stored = await redis.get(KEY)
    if not is_claimed(stored):
        await redis.set(KEY, f"{SCHEMA} {__version__}", nx=stored is None)


def is_claimed(stored: bytes | None) -> bool:
    """Whether what KEY holds is this server's schema; otherwise none or an older one. Raises NewerSchemaError."""
    number, _, writer = (stored or b"0 ").decode().partition(" ")
    if int(number) > SCHEMA:
        raise NewerSchemaError(
            f"Redis holds data of schema {number}, which steadynorm {writer} wrote; this is steadynorm {__version__}, "
            f"which reads up to schema {SCHEMA}. Install steadynorm {writer} or later, or restore a backup from before "
            "the upgrade."
        )
    return int(number) == SCHEMA
