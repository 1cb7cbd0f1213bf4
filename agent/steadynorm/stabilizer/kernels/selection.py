"""Whether the Triton kernels are used: on CUDA, where they agreed with the reference on this very device.

STEADYNORM_KERNELS=0 turns them off, 1 forces them without a proof. On the CPU only Triton's interpreter runs them, for
tests: TRITON_INTERPRET=1 together with STEADYNORM_KERNELS=1.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadynorm.stabilizer.statistics import Statistics
from steadynorm_contract.settings import Mode

if TYPE_CHECKING:
    from steadynorm.stabilizer.kernels.launcher import MultiTensor

__all__ = ["KERNEL_DTYPES", "choose_kernels"]

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_proven: dict[torch.device, bool] = {}  # once a process and device

_log = logging.getLogger("steadynorm")


def choose_kernels(parameters: list[Tensor], statistics: Statistics, rows: Tensor, mode: Mode) -> MultiTensor | None:
    """The kernels for these parameters, or None where torch's own operations do it all.

    May wait for the device, once a process. Raises ValueError for a switch that cannot be followed.
    """
    switch = os.environ.get("STEADYNORM_KERNELS", "")
    if switch not in ("", "0", "1"):
        raise ValueError(
            f"STEADYNORM_KERNELS must be 0 or 1: got {switch!r}. Unset it, and kernels are used if proven."
        )
    forced, device = switch == "1", rows.device
    interpreted = forced and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if switch == "0" or not (device.type == "cuda" or interpreted) or not _suitable(parameters):
        return None
    if importlib.util.find_spec("triton") is None:
        if forced:
            raise ValueError(
                "STEADYNORM_KERNELS=1 needs Triton: it is not installed. Install it, or unset the variable."
            )
        return None
    if not forced and not _is_proven(device):
        return None
    from steadynorm.stabilizer.kernels.launcher import MultiTensor

    return MultiTensor(parameters, statistics, rows, mode)


def _suitable(parameters: list[Tensor]) -> bool:
    """Whether there is anything for the kernels to do. Tensors with a life of their own, as DTensors, are torch's."""
    plain = all(type(parameter) in (Tensor, torch.nn.Parameter) for parameter in parameters)
    return plain and any(parameter.dtype in KERNEL_DTYPES for parameter in parameters)


def _is_proven(device: torch.device) -> bool:
    if device not in _proven:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return False  # nothing can be looked at now
        try:
            from steadynorm.stabilizer.kernels.verification import differences

            found = differences(device)
        except Exception as error:  # a compiler that is missing, a device that it does not know: training goes on
            found = [f"{type(error).__name__}: {error}"]
        _proven[device] = not found
        if found:
            _log.warning(
                "on %s torch's operations are used, not the kernels: %s. STEADYNORM_KERNELS=0 silences this.",
                device,
                found[0][:500],
            )
    return _proven[device]
