"""How long runs are kept: those of which nothing was heard for so long are removed, ended or not."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from steadynorm_server.record import RunRecord
from steadynorm_server.store import Store

__all__ = ["forget_old"]

_DAY_S = 86_400.0

_log = logging.getLogger(__name__)


async def forget_old(store: Store, runs: Sequence[RunRecord], keep_days: float | None) -> list[str]:
    """Remove those of `runs` that were silent for longer than `keep_days` (None: for ever). Returns their ids.

    A run that is heard of meanwhile stays, also where several processes sweep.
    """
    if keep_days is None:
        return []
    silent_since = store.clock() - keep_days * _DAY_S
    gone = [run.run_id for run in runs if run.last_seen < silent_since and await store.forget(run)]
    if gone:
        _log.info("%d runs were removed, silent for more than %g days: %s", len(gone), keep_days, ", ".join(gone[:10]))
    return gone
