"""Names of many runs' parameters: those that are not kept come in one round trip, however many models there are."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from steadynorm_server.redis.client import RedisClient
from steadynorm_server.redis.keys import RunKeys
from steadynorm_server.runs.record import RunRecord

__all__ = ["AT_ONCE", "Names"]

AT_ONCE = 64
"""Runs of one round trip, and models whose names are kept: tables may be large."""


class _Named(msgspec.Struct, array_like=True):
    name: str  # the rest of a Parameter is not wanted


class Names:
    """Kept by the table's digest, so what is kept can never be wrong."""

    def __init__(self) -> None:
        self._kept: dict[str, list[str]] = {}

    async def of(self, redis: RedisClient, runs: Sequence[RunRecord]) -> list[list[str]]:
        """Per run the names in model order; none of a run that was just deleted."""
        missing = {run.digest: run for run in runs if run.digest not in self._kept}
        found = {run.digest: self._kept[run.digest] for run in runs if run.digest not in missing}
        if missing:
            tables = await redis.get_all([RunKeys(run.run_id).parameters for run in missing.values()])
            for digest, table in zip(missing, tables, strict=True):
                if table is not None:
                    found[digest] = [each.name for each in msgspec.json.decode(table, type=list[_Named])]
                    while len(self._kept) >= AT_ONCE:
                        self._kept.pop(next(iter(self._kept)))
                    self._kept[digest] = found[digest]
        return [found.get(run.digest, []) for run in runs]
