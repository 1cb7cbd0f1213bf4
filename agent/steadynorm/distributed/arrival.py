"""attach() is collective: a rank that does not call it is awaited by the others, for as long as torch waits.

`if rank == 0: attach(...)` is how other tools are begun, and would be a training that stands still without a word.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from steadynorm.distributed.store import ranks_store

TELL_AFTER = timedelta(seconds=20)

_log = logging.getLogger("steadynorm")


def tell_who_is_awaited() -> None:
    """Return once all ranks are here, or a warning has named those that are not.

    Collective, and never the only wait.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        store = ranks_store()
        # Not a count of this process: one that joins ranks which have trained before may be younger than they are.
        call = store.add(f"steadynorm/attach/calls/{rank}", 1)
        keys = [f"steadynorm/attach/{call}/{each}" for each in range(size)]
        store.set(keys[rank], "here")
    except Exception:  # it is torch's own, and may change
        _log.debug("the ranks' store cannot be used", exc_info=True)
        return
    try:
        store.wait(keys, TELL_AFTER)
    except Exception:
        _tell([each for each in range(size) if not _is_there(store, keys[each])], size)


def _is_there(store: Any, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except Exception:
        return True


def _tell(missing: list[int], size: int) -> None:
    if not missing:
        return
    listed = ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
    _log.warning(
        "attach() waits for rank %s of %d, which has not called it within %g s. Every rank must call attach(), with "
        "the same arguments: on some of them only, as within `if rank == 0:`, the training stands still here. Only "
        "rank 0 talks to the server in any case.",
        listed,
        size,
        TELL_AFTER.total_seconds(),
    )
