"""How much host memory snapshots take, and how much there is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.recovery.trees import size_bytes
from steadynorm.recovery_options import Recovery

SHARE = 0.6  # of the available memory
_GIB = 1024**3
_CGROUP = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_VERSION_2 = ("memory.max", "memory.current")
_STATE_TENSORS = {"SGD": 1, "Adagrad": 1, "RMSprop": 2, "Lion": 1, "Muon": 1}


def needed_bytes(recovery: Recovery, model: torch.nn.Module, optimizers: Sequence[Optimizer]) -> int:
    """Of this rank: `keep` snapshots and the one that is not confirmed yet.

    An optimizer that has not stepped has no state yet: two tensors a parameter are reckoned, or one where it is known
    to keep one.
    """
    once = sum(_held_bytes(buffer) for buffer in model.buffers())
    for optimizer in optimizers:
        own = {id(each): each for group in optimizer.param_groups for each in group["params"]}
        weights = sum(_held_bytes(each) for each in own.values())
        state = sum(_held_bytes(each) for each in _tensors(list(optimizer.state.values())))
        once += weights + (state or weights * _STATE_TENSORS.get(type(optimizer).__name__, 2))
    for extra in recovery.extra.values():
        once += sum(_held_bytes(each) for each in _tensors(extra.state_dict()))
    return once * (recovery.keep + 1)


def check_memory(recovery: Recovery, needed: int, gather: Callable[[object], Sequence[Any]] | None) -> None:
    """Raises ValueError where the snapshots of all ranks of a host do not fit. Collective: all ranks raise, or none.

    gather: every rank's value, in the order of ranks; None: there is one.
    """
    mine = (socket.gethostname(), needed, available_bytes())
    everyone = [mine] if gather is None else list(gather(mine))
    for host in dict.fromkeys(each[0] for each in everyone):
        together = sum(size for name, size, _ in everyone if name == host)
        available = min(free for name, _, free in everyone if name == host)
        if together > recovery.max_host_gib * _GIB:
            raise ValueError(
                f"recovery must take at most max_host_gib = {recovery.max_host_gib:g} GiB on a host: got "
                f"{_shown(together)} on {host}, for {recovery.keep} snapshots and the one that is being confirmed. "
                "Lower keep, or raise max_host_gib."
            )
        if together > SHARE * available:
            raise ValueError(
                f"recovery must take at most 60 % of the memory that is available on a host: got {_shown(together)} of "
                f"{_shown(available)} on {host}, for {recovery.keep} snapshots and the one that is being confirmed. "
                "Lower keep, give the job more memory, or shard the model over more hosts."
            )


def available_bytes() -> int:
    """What the machine has available, or what is left of a control group's limit, whichever is least."""
    left = (_left(group) for group in _control_groups())
    return min(_meminfo(), *(each for each in left if each is not None), 2**62)


def _control_groups() -> Iterator[tuple[Path, tuple[str, str]]]:
    """This process' groups and those around them, each with the names of its limit and of what it uses.

    In a container the kernel's root is its own group, in which the path that /proc tells may not exist.
    """
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in ["0::/", ":memory:/", *lines]:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (_CGROUP / "memory", _VERSION_1) if controllers else (_CGROUP, _VERSION_2)
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                yield folder, names


def _left(group: tuple[Path, tuple[str, str]]) -> int | None:
    """Of its limit. What it uses includes file pages that the kernel gives up when memory is needed."""
    folder, (limit, usage) = group
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None:
        return None
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        stat = {}
    caches = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return max(0, most - max(0, used - caches))


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 2**62  # no Linux: max_host_gib alone holds
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 2**62)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _held_bytes(tensor: Tensor) -> int:
    """What its copy takes. For pinned memory, that of tensors on a GPU, torch takes the next power of two."""
    size = size_bytes(tensor)
    return 1 << (size - 1).bit_length() if tensor.is_cuda and size else size


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _shown(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / 1024**2:.1f} MiB"
