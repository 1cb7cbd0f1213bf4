"""The gradients' addresses: a table on the device, updated without a wait when one changed.

After `zero_grad(set_to_none=True)` every backward pass allocates again, so the table may change at every step; mostly
the allocator returns the same memory, and then comparing a list of integers is all that happens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadynorm.stabilizer.kernels.triton import ABSENT, ELSEWHERE

_CAPTURES = 4


class Addresses:
    """Addresses of the gradients of P parameters. dtypes: those that the kernel supports."""

    def __init__(self, parameters: list[Tensor], dtypes: tuple[torch.dtype, ...]) -> None:
        device = parameters[0].device
        self._on_gpu = device.type == "cuda"
        self._pairs = [(p, p.dtype if p.dtype in dtypes else None) for p in parameters]
        self._table = torch.zeros(len(parameters), dtype=torch.int64, device=device)
        self._known = [ABSENT] * len(parameters)
        self._elsewhere: list[int] = []
        # A captured graph has a table of its own: it uploads it at every replay, from host memory that must persist.
        self._spare: list[tuple[Tensor, Tensor]] = []
        self._captured: list[tuple[Tensor, Tensor]] = []
        if self._on_gpu:
            self._refill_spare()

    def collect(self) -> tuple[Tensor, list[int]]:
        """The table, int64 [P], and the columns of the gradients that are ELSEWHERE."""
        found = self._read()
        if self._on_gpu and torch.cuda.is_current_stream_capturing():
            return self._for_capture(found), [column for column, at in enumerate(found) if at == ELSEWHERE]
        if found != self._known:
            self._known = found
            self._elsewhere = [column for column, at in enumerate(found) if at == ELSEWHERE]
            # The host copy may be freed at once: torch's allocator holds it until the upload is done.
            host = torch.tensor(found, dtype=torch.int64, pin_memory=self._on_gpu)
            self._table.copy_(host, non_blocking=True)
            self._refill_spare()
        return self._table, self._elsewhere

    def _read(self) -> list[int]:
        try:
            return [
                ABSENT
                if (gradient := p.grad) is None
                else gradient.data_ptr()
                if gradient.is_contiguous() and gradient.dtype is dtype and type(gradient) is Tensor
                else _address_of(gradient, dtype)
                for p, dtype in self._pairs
            ]
        except RuntimeError:  # a sparse gradient has no address
            return [
                ABSENT if (gradient := p.grad) is None else _address_of(gradient, dtype) for p, dtype in self._pairs
            ]

    def _for_capture(self, found: list[int]) -> Tensor:
        if not self._spare:
            raise RuntimeError(
                f"a stabilizer can be captured at most {_CAPTURES} times between two steps outside of a capture: "
                "got one more. Call apply() once outside, then capture."
            )
        host, table = self._spare.pop()
        self._captured.append((host, table))
        host.copy_(torch.tensor(found, dtype=torch.int64))
        table.copy_(host, non_blocking=True)
        return table

    def _refill_spare(self) -> None:
        while self._on_gpu and len(self._spare) < _CAPTURES:
            host = torch.zeros(len(self._pairs), dtype=torch.int64, pin_memory=True)
            self._spare.append((host, torch.zeros_like(self._table)))


def _address_of(gradient: Tensor, dtype: torch.dtype | None) -> int:
    """The address of a gradient whose elements are contiguous in memory, in any order; else ELSEWHERE."""
    if gradient.layout is not torch.strided or gradient.dtype is not dtype or type(gradient) is not Tensor:
        return ELSEWHERE
    expected = 1
    for stride, size in sorted(zip(gradient.stride(), gradient.shape, strict=True)):
        if size == 0:
            return ABSENT
        if size != 1 and stride != expected:
            return ELSEWHERE
        expected *= size
    return gradient.data_ptr()
