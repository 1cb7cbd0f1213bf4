"""The parameters that a stabilizer is given, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def trainable(named_parameters: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Those that require a gradient. TypeError for what are no pairs, ValueError for a name that is there twice."""
    pairs = [(name, tensor) for name, tensor in _named(named_parameters) if tensor.requires_grad]
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"parameter names must be unique: got {', '.join(twice[:3])} more than once")
    return pairs


def _named(named_parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The pairs. A matrix of two rows would unpack like one, so `model.parameters()` must not get through."""
    rule = "named_parameters must be (name, tensor) pairs, as model.named_parameters() returns them"
    if not isinstance(named_parameters, Iterable):
        raise TypeError(f"{rule}: got {type(named_parameters).__name__}.")
    for pair in named_parameters:
        match pair:
            case (str() as name, Tensor() as tensor):
                yield name, tensor
            case _:
                raise TypeError(f"{rule}: got {type(pair).__name__}.")


def common_device(parameters: list[Tensor]) -> torch.device:
    """The one that all are on. ValueError for none or several."""
    if not parameters:
        raise ValueError("there must be at least one parameter that requires a gradient: got none")
    devices = {parameter.device for parameter in parameters}
    if len(devices) > 1:
        listed = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"parameters must be on one device: got {listed}. Use a GradientStabilizer for each device.")
    return devices.pop()
