"""Caches parameter names per table; fetches misses in one round trip."""

from collections.abc import Sequence

import msgspec

from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.lru_cache import LRUCache
from steadynorm_server.runs.record import RunRecord

BATCH_SIZE = 64
"""Runs in one round trip, and tables whose names are cached: a table may be large."""


class _Name(msgspec.Struct, array_like=True):
    name: str  # the other fields of a Parameter are skipped


class ParameterNameCache:
    """Names by the digest of the parameter table, so a cached entry never becomes stale."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._names: LRUCache[Sequence[str]] = LRUCache(BATCH_SIZE)

    async def get(self, runs: Sequence[RunRecord]) -> list[Sequence[str]]:
        """Per run the names in model order; empty for a run that was just deleted."""
        found = {run.digest: names for run in runs if (names := self._names.get(run.digest)) is not None}
        missing = {run.digest: run for run in runs if run.digest not in found}
        if missing:
            tables = await self._redis.get_all([RunKeys(run.run_id).parameters for run in missing.values()])
            for digest, table in zip(missing, tables, strict=True):
                if table is not None:
                    found[digest] = [each.name for each in msgspec.json.decode(table, type=list[_Name])]
                    self._names.put(digest, found[digest])
        return [found.get(run.digest, ()) for run in runs]
