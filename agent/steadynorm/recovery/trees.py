"""Copies of nested state into host memory that is allocated once, and back in place.

A tree is what an optimizer, a module or a scheduler keeps: tensors and plain values in dictionaries, lists and tuples.
Tensors are copied into a buffer that is reused at the next copy; a sharded one (DTensor) by its local shard, so no
collective is needed. Going back writes into the tensors that are there: nothing is allocated anew as long as they have
their shapes, and graphs that were captured over them stay valid.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Buffers:
    """Host memory of one snapshot, by the tensor's place in the tree. pinned: for copies that wait for nothing."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[Any, ...], Tensor] = {}
        self._used: set[tuple[Any, ...]] = set()  # since the last `trim()`

    def of(self, path: tuple[Any, ...], tensor: Tensor) -> Tensor:
        """The buffer for a tensor at this place, made once."""
        self._used.add(path)
        known = self._tensors.get(path)
        if known is None or known.shape != tensor.shape or known.dtype != tensor.dtype:
            known = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
            self._tensors[path] = known
        return known

    def trim(self) -> None:
        """All is copied: free what was of tensors that are there no more, such as parameters that were exchanged."""
        for path in self._tensors.keys() - self._used:
            del self._tensors[path]
        self._used = set()


def local(tensor: Tensor) -> Tensor:
    """The memory of this rank: a shard's, or the tensor's own. Shares it."""
    found: Any = tensor.detach()
    mine: Tensor = found.to_local() if hasattr(found, "to_local") else found
    return mine


def size_bytes(tensor: Tensor) -> int:
    """Of this rank's part."""
    mine = local(tensor)
    return mine.numel() * mine.element_size()


def save(value: Any, buffers: Buffers, path: tuple[Any, ...]) -> Any:
    """A copy of the tree. Copies from an accelerator are started, on the current stream, and not waited for."""
    if isinstance(value, Tensor):
        mine = local(value)
        return buffers.of(path, mine).copy_(mine, non_blocking=mine.is_cuda)
    if isinstance(value, dict):
        return {key: save(each, buffers, (*path, key)) for key, each in value.items()}
    if isinstance(value, list | tuple):
        parts = [save(each, buffers, (*path, at)) for at, each in enumerate(value)]
        return parts if isinstance(value, list) else tuple(parts)
    return value if isinstance(value, int | float | str | bool | None | Callable) else copy.deepcopy(value)


def fits(present: Tensor, saved: object) -> bool:
    """Whether a saved tensor can be written into the one that is there."""
    mine = local(present)
    return isinstance(saved, Tensor) and saved.shape == mine.shape and saved.dtype == mine.dtype


def restore(present: Any, saved: Any, device: torch.device | None) -> Any:
    """The tree as it was saved: written into `present` where that fits, else made anew on `device`."""
    if isinstance(saved, Tensor):
        if isinstance(present, Tensor) and fits(present, saved):
            local(present).copy_(saved)
            return present
        if device is None or saved.dim() == 0:  # a count, which optimizers keep in host memory
            return saved.clone()
        return saved.to(device, copy=True)
    if isinstance(saved, dict):
        target = present if isinstance(present, dict) else {}
        for key in [key for key in target if key not in saved]:
            del target[key]
        for key, each in saved.items():
            target[key] = restore(target.get(key), each, device)
        return target
    if isinstance(saved, list | tuple):
        known = (
            list(present) if isinstance(present, list | tuple) and len(present) == len(saved) else [None] * len(saved)
        )
        parts = [restore(old, new, device) for old, new in zip(known, saved, strict=True)]
        if isinstance(present, list) and isinstance(saved, list):
            present[:] = parts
            return present
        return parts if isinstance(saved, list) else tuple(parts)
    return copy.deepcopy(saved)
