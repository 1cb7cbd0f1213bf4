"""Decides whether the Triton kernels are used: on CUDA, where they agree with the reference on this device.

STEADYNORM_KERNELS=0 turns them off, 1 uses them without verification. On the CPU only Triton's interpreter runs them,
for tests: TRITON_INTERPRET=1 together with STEADYNORM_KERNELS=1. Triton is imported only once they are to be used.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadynorm.lifecycle import described
from steadynorm.stabilizer.gradients import Gradients
from steadynorm.stabilizer.sharding import is_sharded
from steadynorm.stabilizer.statistics import Statistics
from steadynorm_contract.settings import Mode

if TYPE_CHECKING:
    from steadynorm.stabilizer.kernels.launcher import MultiTensor

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_verified: dict[torch.device, bool] = {}  # once per process and device

_log = logging.getLogger("steadynorm")


def choose_kernels(
    parameters: list[Tensor], statistics: Statistics, rows: Tensor, mode: Mode, gradients: Gradients | None = None
) -> MultiTensor | None:
    """The kernels for these parameters, or None where torch's own operations do everything.

    gradients: of the same parameters, which must be given where any is sharded.

    May wait for the device, once per process. Raises ValueError for a switch that is invalid or needs Triton.
    """
    switch = os.environ.get("STEADYNORM_KERNELS", "")
    if switch not in ("", "0", "1"):
        raise ValueError(
            f"STEADYNORM_KERNELS must be 0 or 1: got {switch!r}. Unset it to use kernels once they are verified."
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
    if not forced and not _is_verified(device):
        return None
    from steadynorm.stabilizer.kernels.launcher import MultiTensor

    return MultiTensor(parameters, statistics, rows, mode, gradients=gradients)


def _suitable(parameters: list[Tensor]) -> bool:
    """Whether the kernels support any of the parameters. Tensor subclasses, but for shards, are left to torch."""
    plain = all(type(parameter) in (Tensor, torch.nn.Parameter) or is_sharded(parameter) for parameter in parameters)
    return plain and any(parameter.dtype in KERNEL_DTYPES for parameter in parameters)


def _is_verified(device: torch.device) -> bool:
    if device not in _verified:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return False  # nothing can be read now
        try:
            from steadynorm.stabilizer.kernels.verification import differences

            found = differences(device)
        except Exception as error:  # a missing compiler, or a device it does not support: training continues
            found = [described(error)]
        _verified[device] = not found
        if found:
            _log.warning(
                "on %s torch's operations are used instead of the kernels: %s. STEADYNORM_KERNELS=0 silences this.",
                device,
                found[0][:500],
            )
    return _verified[device]
