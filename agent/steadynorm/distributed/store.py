"""The store by which the ranks of `torch.distributed` found each other."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def ranks_store() -> Any:
    """The default group's `Store`. Raises what torch does where there is none, or AttributeError.

    torch has no public name for it, so whoever asks must be able to go on without.
    """
    return dist.distributed_c10d._get_default_store()
