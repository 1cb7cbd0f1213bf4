"""The gradients' addresses: a table on the device, updated without a wait when one changed.

After `zero_grad(set_to_none=True)` every backward pass allocates again, so the table may change at every step; mostly
the allocator returns the same memory, and then comparing a list of integers is all that happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

from steadynorm.stabilizer.kernels.triton import ABSENT, ELSEWHERE

_CAPTURES = 4
_dtype = attrgetter("dtype")


class Addresses:
    """Addresses of P gradients on `device`, whose launches were planned for these sizes and dtypes (None: for none)."""

    def __init__(self, sizes: Sequence[int], dtypes: Sequence[torch.dtype | None], device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        # The kernel reads and writes as many elements as were planned.
        self._sizes, self._dtypes = list(sizes), list(dtypes)
        self.table = torch.zeros(len(sizes), dtype=torch.int64, device=device)
        self._known = [ABSENT] * len(sizes)
        self._elsewhere: list[int] = []
        # A captured graph has a table of its own: it uploads it at every replay, from host memory that must persist.
        self._spare: list[tuple[Tensor, Tensor]] = []
        self.captured: list[tuple[Tensor, Tensor]] = []
        if self._on_gpu:
            self._refill_spare()

    def collect(self, gradients: list[Tensor | None]) -> tuple[Tensor, list[int]]:
        """The table, int64 [P], and the columns of the gradients that are ELSEWHERE. gradients: None where absent."""
        found = self._read(gradients)
        if self._on_gpu and torch.cuda.is_current_stream_capturing():
            return self._for_capture(found), [column for column, at in enumerate(found) if at == ELSEWHERE]
        if found != self._known:
            self._known = found
            self._elsewhere = [column for column, at in enumerate(found) if at == ELSEWHERE]
            # The host copy may be freed at once: torch's allocator holds it until the upload is done.
            host = torch.tensor(found, dtype=torch.int64, device="cpu", pin_memory=self._on_gpu)
            self.table.copy_(host, non_blocking=True)
            self._refill_spare()
        return self.table, self._elsewhere

    def _read(self, gradients: list[Tensor | None]) -> list[int]:
        """The common case, that all are as planned, in a few loops of C: there may be ten thousand of them."""
        if set(map(type, gradients)) == {Tensor} and list(map(_dtype, gradients)) == self._dtypes:
            try:
                if list(map(Tensor.numel, gradients)) == self._sizes and all(map(Tensor.is_contiguous, gradients)):  # type: ignore[arg-type]  # none is None
                    return list(map(Tensor.data_ptr, gradients))  # type: ignore[arg-type]
            except RuntimeError:  # a sparse gradient has no address
                pass
        return [
            ABSENT if gradient is None else _address_of(gradient, dtype, size)
            for gradient, dtype, size in zip(gradients, self._dtypes, self._sizes, strict=True)
        ]

    def _for_capture(self, found: list[int]) -> Tensor:
        if not self._spare:
            raise RuntimeError(
                f"a stabilizer can be captured at most {_CAPTURES} times between two steps outside of a capture: "
                "got one more. Call apply() once outside, then capture."
            )
        host, table = self._spare.pop()
        self.captured.append((host, table))
        host.copy_(torch.tensor(found, dtype=torch.int64, device="cpu"))
        table.copy_(host, non_blocking=True)
        return table

    def _refill_spare(self) -> None:
        while self._on_gpu and len(self._spare) < _CAPTURES:
            host = torch.zeros(len(self._known), dtype=torch.int64, device="cpu", pin_memory=True)
            self._spare.append((host, torch.zeros_like(self.table)))


def _address_of(gradient: Tensor, dtype: torch.dtype | None, size: int) -> int:
    """The address of a gradient of `size` elements that are contiguous in memory, in any order; else ELSEWHERE.

    A gradient has another size where the parameter's memory was exchanged for that of a smaller or larger one.
    """
    if type(gradient) is not Tensor or gradient.dtype is not dtype or gradient.layout is not torch.strided:
        return ELSEWHERE
    if gradient.numel() != size:
        return ELSEWHERE
    if gradient.is_contiguous():
        return gradient.data_ptr()
    expected = 1
    for stride, length in sorted(zip(gradient.stride(), gradient.shape, strict=True)):
        if length != 1 and stride != expected:
            return ELSEWHERE
        expected *= length
    return gradient.data_ptr()
