"""The hash of an entry that includes the hash of the one before it."""

import hashlib
import json
from collections.abc import Mapping

__all__ = ["chained_hash"]


def chained_hash(previous: str, entry: Mapping[str, object]) -> str:
    """The hash of an entry that comes after the one with the hash `previous`."""
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256((previous + canonical).encode("ascii")).hexdigest()
