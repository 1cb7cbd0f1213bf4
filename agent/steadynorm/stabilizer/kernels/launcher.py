"""Launches the kernel for many tensors at once: tables of chunks on the device, and the plan of launches.

Two launches per dtype as long as its gradients fit into one wave. More are split into waves, and one launch scales a
wave while it measures the next, so that a gradient is scaled out of L2: docs/decisions/0004.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import accumulate

import torch
import triton.language as tl
from torch import Tensor

from steadynorm.stabilizer.gradients import Gradients
from steadynorm.stabilizer.kernels.addresses import Addresses
from steadynorm.stabilizer.kernels.triton import BEFORE_ROWS, BLOCK, CHUNK, OPTIONS, step_kernel
from steadynorm.stabilizer.statistics import MODE_CODES, Statistics
from steadynorm_contract.settings import Mode

WAVE_BYTES = 24 * 1024 * 1024
"""How much is measured before it is scaled: about half of the L2 of an H100 or H200; tune with gpu_step.py."""

_ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

Launch = tuple[object, int, int, int, int]
"""Element type; first and last + 1 of the chunks to scale; first of the chunks to measure; programs."""


class MultiTensor:
    """A step of all `parameters` on `statistics`, P columns, and `rows`, float32 [P, RING_COLUMNS], all on one device.

    wave_bytes: None for two launches however large the gradients are.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        statistics: Statistics,
        rows: Tensor,
        mode: Mode,
        wave_bytes: int | None = WAVE_BYTES,
    ) -> None:
        self._device = device = rows.device
        self._parameters, self._statistics, self._rows = parameters, statistics, rows
        self._addresses = Addresses(parameters, tuple(_ELEMENTS))
        self._elsewhere: dict[int, Gradients] = {}  # by column: those that torch measures and scales
        self._on_gpu = device.type == "cuda"
        self._loss_scaled = False

        # Chunks are in the order of the dtypes, so that the launches of a dtype have consecutive ones.
        dtypes = [dtype for dtype in _ELEMENTS if any(p.dtype is dtype for p in parameters)]
        # The kernel does not read a tensor of another dtype, but decides for it: it takes part without elements.
        of_dtype = [p.dtype if p.dtype in dtypes else dtypes[0] for p in parameters]
        order = sorted(range(len(parameters)), key=lambda column: dtypes.index(of_dtype[column]))
        sizes = [p.numel() if p.dtype in dtypes else 0 for p in parameters]
        counts = [max(1, -(-size // CHUNK)) for size in sizes]
        starts = [0, *accumulate(counts[column] for column in order)]
        first_chunks = dict(zip(order, starts, strict=False))
        self.launches: list[Launch] = []
        for dtype in dtypes:
            bounds = _wave_bounds(
                [
                    (first_chunks[column], sizes[column] * dtype.itemsize)
                    for column in order
                    if of_dtype[column] is dtype
                ],
                max(first_chunks[column] + counts[column] for column in order if of_dtype[column] is dtype),
                wave_bytes,
            )
            self.launches += _plan(_ELEMENTS[dtype], bounds)

        def table(values: list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        count = len(parameters)
        self._tables = (
            table(sizes, torch.int64),
            table([first_chunks[column] for column in range(count)], torch.int32),
            table(counts, torch.int32),
            table([column for column in order for _ in range(counts[column])], torch.int32),
            torch.zeros(starts[-1], device=device),  # a slot for each chunk's sum of squares
            torch.zeros(BEFORE_ROWS, count, device=device),
        )
        self._modes = torch.full((count,), float(MODE_CODES[mode]), device=device)
        self._matrices = (
            statistics.floats,
            statistics.finite.view(torch.uint8),
            self._modes,
            rows,
            statistics.settings.values,
            count,
        )

    @property
    def mode(self) -> Mode:
        """The mode of the last step, replays of a captured graph included. Waits for the device."""
        code = int(self._modes[0])
        return next(mode for mode, known in MODE_CODES.items() if known == code)

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._modes.fill_(float(MODE_CODES[mode]))

    def step(self, mode: Mode, scaling: bool, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Measure, decide, scale, and write `rows`. See `GradientStabilizer.apply` for grad_scale and found_inf.

        The kernel reads the settings from `statistics.settings`; mode and scaling are for the gradients that torch
        scales, since the kernel does not support them.
        """
        self._copy_loss_scale(grad_scale, found_inf)
        addresses, elsewhere = self._addresses.collect()
        norms, others = self._statistics.raw_norm, [(column, self._gradients_of(column)) for column in elsewhere]
        present = [
            gradients.collect() if mode is Mode.OFF else gradients.measure(out=norms[column : column + 1])
            for column, gradients in others
        ]
        with torch.cuda.device(self._device) if self._on_gpu else nullcontext():  # Triton launches on the current one
            for element, scale_first, scale_stop, measure_first, programs in self.launches:
                step_kernel[(programs,)](
                    addresses,
                    *self._tables,
                    *self._matrices,
                    scale_first,
                    scale_stop,
                    measure_first,
                    ELEMENT=element,
                    CHUNK=CHUNK,
                    BLOCK=BLOCK,
                    **OPTIONS,
                )
        for (column, gradients), found in zip(others if scaling else [], present, strict=False):
            one, stabilizing = slice(column, column + 1), mode is Mode.STABILIZE
            gradients.scale(found, self._statistics.scale[one], self._statistics.finite[one] if stabilizing else None)
            if grad_scale is not None:
                gradients.saturate(found)

    def _copy_loss_scale(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        given = grad_scale is not None or found_inf is not None
        if not given and not self._loss_scaled:
            return
        self._loss_scaled = given
        for at, tensor, otherwise in ((12, grad_scale, 1.0), (13, found_inf, 0.0)):
            value = self._statistics.settings.values[at]
            if tensor is None:
                value.fill_(otherwise)
            else:
                value.copy_(tensor.view(()), non_blocking=True)

    def _gradients_of(self, column: int) -> Gradients:
        if column not in self._elsewhere:
            self._elsewhere[column] = Gradients([self._parameters[column]])
        return self._elsewhere[column]


def _wave_bounds(tensors: list[tuple[int, int]], end: int, wave_bytes: int | None) -> list[int]:
    """First chunk of each wave, and the end. tensors: first chunk and bytes of each. A wave holds one at least."""
    bounds, filled = [tensors[0][0]], 0
    for first_chunk, size in tensors:
        if wave_bytes is not None and filled and filled + size > wave_bytes:
            bounds.append(first_chunk)
            filled = 0
        filled += size
    return [*bounds, end]


def _plan(element: object, bounds: list[int]) -> list[Launch]:
    """One launch more than there are waves: each scales one wave and measures the next."""
    launches: list[Launch] = []
    scale_first = scale_stop = bounds[0]
    for start, stop in zip(bounds, [*bounds[1:], bounds[-1]], strict=True):
        launches.append((element, scale_first, scale_stop, start, scale_stop - scale_first + stop - start))
        scale_first, scale_stop = start, stop
    return launches
