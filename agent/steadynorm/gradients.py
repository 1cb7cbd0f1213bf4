"""The gradients of a fixed list of parameters: gather them, measure their norms, scale them, each in few calls."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Gradients"]

_NARROW = (torch.float32, torch.float16, torch.bfloat16)  # their norms accumulate in float32


class Gradients:
    """`.grad` of `parameters` as lists. Raises ValueError for parameters that it cannot take.

    Norms and scales are float32 vectors over all parameters, on the parameters' device.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        if not parameters:
            raise ValueError("there must be at least one parameter that requires a gradient: got none")
        devices = {parameter.device for parameter in parameters}
        if len(devices) > 1:
            listed = ", ".join(sorted(map(str, devices)))
            raise ValueError(
                f"parameters must be on one device: got {listed}. Use a GradientStabilizer for each device."
            )
        self.device = devices.pop()
        self._parameters = parameters
        self._everyone = list(range(len(parameters)))
        self._norms_of: Tensor | None = None
        self._norm_views: list[Tensor] = []
        self._scales_of: Tensor | None = None
        self._scale_views: list[Tensor] = []

    def collect(self) -> tuple[list[int], list[Tensor]]:
        """Indices and gradients of the parameters that have one."""
        found = [parameter.grad for parameter in self._parameters]
        if None not in found:
            return self._everyone, found  # type: ignore[return-value]  # None was just excluded
        pairs = [(index, gradient) for index, gradient in enumerate(found) if gradient is not None]
        return [index for index, _ in pairs], [gradient for _, gradient in pairs]

    def measure(self, out: Tensor) -> tuple[list[int], list[Tensor]]:
        """Write each gradient's L2 norm into `out` (float32 [P]; 0 where there is none). Returns `collect()`."""
        indices, gradients = self.collect()
        if not gradients:
            out.zero_()
        elif len(gradients) == len(self._parameters):
            torch.stack(_norms(gradients), out=out)
        else:
            if self._norms_of is not out:
                self._norms_of, self._norm_views = out, list(out.unbind())
            out.zero_()
            torch._foreach_copy_([self._norm_views[index] for index in indices], _norms(gradients))
        return indices, gradients

    def scale(self, present: tuple[list[int], list[Tensor]], scales: Tensor, finite: Tensor | None = None) -> None:
        """Multiply each gradient by its entry of `scales` (float32 [P]), in place.

        finite: bool [P]; where it is false the gradient becomes exactly zero, since 0 times NaN is NaN.
        """
        indices, gradients = present
        if not gradients:
            return
        if self._scales_of is not scales:
            self._scales_of, self._scale_views = scales, list(scales.unbind())
        views = self._scale_views
        chosen = views if len(indices) == len(views) else [views[index] for index in indices]
        torch._foreach_mul_(gradients, chosen)
        if finite is None:
            return
        if finite.device.type == "cpu":
            # Host memory: looking is no synchronization, and saves a pass over every gradient.
            good: list[bool] = finite.tolist()
            if not all(good):
                for index, gradient in zip(indices, gradients, strict=True):
                    if not good[index]:
                        gradient.zero_()
        else:
            broken = finite.logical_not().unbind()
            for index, gradient in zip(indices, gradients, strict=True):
                gradient.masked_fill_(broken[index], 0)


def _norms(gradients: list[Tensor]) -> list[Tensor]:
    """L2 norms as 0-dim float32 tensors, accumulated in float32 at least."""
    if all(gradient.dtype in _NARROW for gradient in gradients):
        return list(torch._foreach_norm(gradients, 2, dtype=torch.float32))
    real = [torch.view_as_real(gradient) if gradient.is_complex() else gradient for gradient in gradients]
    return [torch.linalg.vector_norm(gradient).float() for gradient in real]
