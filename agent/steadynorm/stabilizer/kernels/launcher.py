"""Launches the kernels for many tensors at once: the tables on the device, and the launches of a step.

A step is the plan's launches. In mode `clip` and where tensors are sharded it has two parts, measuring and scaling, and
between them ranks add up what they measured, and the clip's factor is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

import torch
import triton.language as tl
from torch import Tensor

from steadynorm.stabilizer.gradients import Gradients, Present
from steadynorm.stabilizer.kernels.addresses import Addresses
from steadynorm.stabilizer.kernels.compiled import Compiled
from steadynorm.stabilizer.kernels.plan import BLOCK, WAVE_BYTES, Launch, Plan
from steadynorm.stabilizer.kernels.triton import BEFORE_ROWS, OPTIONS, TABLES, norms_kernel, step_kernel
from steadynorm.stabilizer.statistics import MODE_CODES, NOT_MEASURED, Statistics
from steadynorm_contract.settings import Mode

_ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
NONE: Present = ([], [])


class MultiTensor:
    """A step of all `parameters` on `statistics`, P columns, and `rows`, float32 [P, RING_COLUMNS], all on one device.

    wave_bytes: None for two launches however large the gradients are. gradients: of the same parameters.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        statistics: Statistics,
        rows: Tensor,
        mode: Mode,
        wave_bytes: int | None = WAVE_BYTES,
        gradients: Gradients | None = None,
    ) -> None:
        self._device = device = rows.device
        self._statistics, self._rows = statistics, rows
        self._gradients = gradients or Gradients(list(parameters))
        self._on_gpu = device.type == "cuda"
        self._loss_scaled = False
        shards, parts = self._gradients.shards, self._gradients.parts

        dtypes = [dtype for dtype in _ELEMENTS if any(part.dtype is dtype for part in parts)]
        # The kernel does not read a tensor of another dtype, but decides for it: it takes part without elements.
        taken = [part.dtype if part.dtype in dtypes else None for part in parts]
        sizes = [0 if dtype is None else part.numel() for part, dtype in zip(parts, taken, strict=True)]
        self._addresses = Addresses(sizes, taken, device)
        places = [dtypes.index(dtype) if dtype is not None else 0 for dtype in taken]
        itemsizes = [dtype.itemsize for dtype in dtypes]
        self.plan = plan = Plan(sizes, places, itemsizes, wave_bytes)
        self._steps = [
            Compiled(step_kernel, {"ELEMENT": _ELEMENTS[each], "SIZE": each.itemsize, "BLOCK": BLOCK}, OPTIONS)
            for each in dtypes
        ]
        self._write_norms = Compiled(norms_kernel)

        count = len(parts)
        no_failure = torch.zeros((), dtype=torch.bool, device=device)
        self._modes = torch.full((count,), float(MODE_CODES[mode]), dtype=torch.float32, device=device)
        self._norms = torch.zeros(count, dtype=torch.float32, device=device)
        tables = {
            "columns": torch.tensor(plan.columns, dtype=torch.int32, device=device),
            "first_chunks": torch.tensor(plan.first_chunks, dtype=torch.int32, device=device),
            "chunk_counts": torch.tensor(plan.chunk_counts, dtype=torch.int32, device=device),
            "chunk_lengths": torch.tensor(plan.chunk_lengths, dtype=torch.int32, device=device),
            "sizes": torch.tensor(sizes, dtype=torch.int64, device=device),
            "slots": torch.zeros(len(plan.columns), dtype=torch.float32, device=device),
            "before": torch.zeros(BEFORE_ROWS, count, dtype=torch.float32, device=device),
            "norms": self._norms,
            "modes": self._modes,
            "failed": no_failure if shards is None else shards.failed,
            "matrix": statistics.floats,
            "finite": statistics.finite,
            "rows": rows,
            "values": statistics.settings.values,
        }
        self._tensors = [tables[name] for name in TABLES]  # held: the table has their addresses alone
        addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._tables = torch.tensor(addresses, dtype=torch.int64, device=device)

    def release(self, column: int, placeholder: Tensor) -> None:
        """Let go of a parameter: what takes its place has no gradient."""
        self._gradients.release(column, placeholder)

    def let_go(self) -> None:
        """Keep no parameter alive. No step follows."""
        self._gradients = Gradients([])

    @property
    def memory(self) -> object:
        """What launches point to. Later captures add to it."""
        return self._tensors, self._tables, self._addresses.captured

    @property
    def mode(self) -> Mode:
        """The mode of the last step, replays of a captured graph included. Waits for the device."""
        code = int(self._modes[0])
        return next(mode for mode, known in MODE_CODES.items() if known == code)

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._modes.fill_(float(MODE_CODES[mode]))

    def step(
        self,
        mode: Mode,
        scaling: bool,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        clip: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Measure, decide, scale, and write `rows`. See `GradientStabilizer.apply` for grad_scale and found_inf.

        The kernel reads the settings from `statistics.settings`; mode and scaling are for the gradients that torch
        scales, since the kernel does not support them. clip: in mode `clip`, makes of the true norms, float32 [P] and
        negative where none was measured, the factor on all gradients, float32, 0-dim.
        """
        self._copy_loss_scale(grad_scale, found_inf)
        if clip is None and self._gradients.shards is None:
            addresses, elsewhere = self._addresses.collect(self._gradients.all())
            others = self._measure_others(elsewhere, mode)
            self._launch(addresses, self.plan.launches)
        else:
            addresses, others = self._measure_all(mode)
            if clip is not None:
                self._statistics.settings.clip_factor.copy_(clip(self._true_norms(grad_scale, found_inf)))
            self._launch(addresses, self.plan.scaling, norms_given=True)
        if scaling and others[0]:
            self._gradients.scale(others, self._statistics.scale, self._kept(mode))
            if grad_scale is not None:
                self._gradients.saturate(others)

    def _kept(self, mode: Mode) -> Tensor | None:
        """bool [P], false where a gradient becomes zero; None where none does."""
        if mode is Mode.CLIP:
            kept: Tensor = (self._statistics.settings.clip_factor > 0).expand(len(self._norms))
            return kept
        return self._statistics.finite if mode is Mode.STABILIZE else None

    def _true_norms(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> Tensor:
        norms = self._norms if grad_scale is None else self._norms / grad_scale.view(())
        return norms if found_inf is None else norms.masked_fill(found_inf.view(()) > 0, NOT_MEASURED)

    def _measure_all(self, mode: Mode) -> tuple[Tensor, Present]:
        """The table of addresses, and the gradients that the kernel does not read. Norms of all are in `norms`."""
        addresses, others = self._addresses.table, NONE

        def measure_here(norms: Tensor) -> Present:
            nonlocal addresses, others
            addresses, elsewhere = self._addresses.collect(self._gradients.all())
            others = self._measure_others(elsewhere, mode)
            self._launch(addresses, self.plan.measuring)
            with self._on_device():
                self._write_norms.launch(len(norms), addresses, self._tables)
            return others

        if mode is Mode.OFF:
            self._gradients.skip(self._norms)
            measure_here(self._norms)  # nothing is measured, but the state is copied
        else:
            self._gradients.measure(self._norms, measure_here)
        return addresses, others

    def _measure_others(self, elsewhere: list[int], mode: Mode) -> Present:
        """Those that the kernel does not read, in `norms`."""
        if not elsewhere:
            return NONE
        others = self._gradients.collect_some(elsewhere)
        if mode is not Mode.OFF:
            self._gradients.measure_some(others, out=self._norms)
        return others

    def _launch(self, addresses: Tensor, launches: Iterable[Launch], *, norms_given: bool = False) -> None:
        with self._on_device():
            for launch in launches:
                self._steps[launch.dtype].launch(
                    launch.programs,
                    addresses,
                    self._tables,
                    len(self._norms),
                    launch.scale_first,
                    launch.scale_stop,
                    launch.measure_first,
                    int(norms_given),
                )

    def _on_device(self) -> torch.cuda.device | nullcontext[None]:
        """Triton launches on the current device."""
        return torch.cuda.device(self._device) if self._on_gpu else nullcontext()

    def _copy_loss_scale(self, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        given = grad_scale is not None or found_inf is not None
        if not given and not self._loss_scaled:
            return
        self._loss_scaled = given
        for at, tensor, otherwise in ((18, grad_scale, 1.0), (19, found_inf, 0.0)):
            value = self._statistics.settings.values[at]
            if tensor is None:
                value.fill_(otherwise)
            else:
                value.copy_(tensor.view(()), non_blocking=True)
