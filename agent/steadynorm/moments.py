"""Whether an optimizer has moments: then they are in the scale of the gradients that it has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

_COUNTERS = ("step", "k")  # of a parameter, or of a group, as schedule-free optimizers count


def has_moments(optimizer: Optimizer) -> bool:
    """Whether the optimizer has stepped with gradients, here or before its state was loaded.

    State alone does not say so: some is made when the optimizer is (Adagrad), when it is looked at (schedule-free), by
    a step without gradients (torch.distributed.checkpoint), or is a copy of the weights (SAM, Lookahead). Waits for
    the device: once, before the first step. Collective where state is sharded, with the same result on all ranks.
    """
    counts = list(_counts(optimizer))
    if counts and max(counts) <= 0:
        return False
    return any(_is_moment(tensor, parameter) for parameter, tensor in _tensors(optimizer))


def _counts(optimizer: Optimizer) -> Iterator[float]:
    """Steps, wherever the optimizer counts them."""
    states = [state for state in optimizer.state.values() if isinstance(state, Mapping)]
    for counted in (*optimizer.param_groups, *states):
        for name in _COUNTERS:
            value = counted.get(name)
            if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
                yield float(value)


def _tensors(optimizer: Optimizer) -> Iterator[tuple[object, Tensor]]:
    """With their parameter, the state's tensors that may be moments."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if not isinstance(value, Tensor) or name in _COUNTERS:
                continue
            if isinstance(optimizer, SGD) and name != "momentum_buffer":  # what a wrapper keeps in its state
                continue
            if value.dim() == 0 and isinstance(parameter, Tensor) and parameter.dim() > 0:  # NAdam's mu_product
                continue
            yield parameter, value


def _is_moment(tensor: Any, parameter: object) -> bool:
    """Whether `tensor` is neither zero nor a copy of the weights."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return False
    try:
        with torch.no_grad():
            if not _differs(tensor):
                return False
            copied = isinstance(parameter, Tensor) and parameter.shape == tensor.shape
            return not copied or _differs(tensor - parameter.detach())  # type: ignore[attr-defined]  # see `copied`
    except Exception:  # a quantized tensor, which may support neither: it was made by a step
        return True


def _differs(tensor: Any) -> bool:
    """Whether any element differs from zero, on any rank."""
    norm: Any = torch.linalg.vector_norm(tensor, 1)
    return bool((norm.full_tensor() if hasattr(norm, "full_tensor") else norm) != 0)
