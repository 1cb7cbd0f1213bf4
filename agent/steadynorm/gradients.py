"""The gradients of a fixed list of parameters: gather them, measure their norms, scale them, each in few calls."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Gradients"]

_NARROW = (torch.float32, torch.float16, torch.bfloat16)  # their norms accumulate in float32
# In elements:
_LONG_ENOUGH_FOR_DOT = 1 << 14
_TOO_LONG_FOR_NORM = 1 << 18
_PIECE_OF_NORM = 1 << 16
_PIECE_OF_DOT = 1 << 20


class Gradients:
    """`.grad` of `parameters`, all on one device, as lists. A gradient has its parameter's dtype and shape.

    Norms and scales are float32 vectors over all parameters, on their device.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self._alone = {index for index, p in enumerate(parameters) if _measured_alone(p)}
        self._norms_of: Tensor | None = None
        self._norm_views: list[Tensor] = []
        self._scales_of: Tensor | None = None
        self._scale_views: list[Tensor] = []

    def collect(self) -> tuple[list[int], list[Tensor]]:
        """Indices and gradients of the parameters that have one."""
        # Identity, not `None in found`: that would compare every tensor, element by element.
        pairs = [(index, gradient) for index, p in enumerate(self._parameters) if (gradient := p.grad) is not None]
        return [index for index, _ in pairs], [gradient for _, gradient in pairs]

    def measure(self, out: Tensor) -> tuple[list[int], list[Tensor]]:
        """Write each gradient's L2 norm into `out` (float32 [P]; 0 where there is none). Returns `collect()`."""
        indices, gradients = self.collect()
        if not gradients:
            out.zero_()
        elif len(gradients) == len(self._parameters):
            torch.stack(self._norms(indices, gradients), out=out)
        else:
            if self._norms_of is not out:
                self._norms_of, self._norm_views = out, list(out.unbind())
            out.zero_()
            torch._foreach_copy_([self._norm_views[index] for index in indices], self._norms(indices, gradients))
        return indices, gradients

    def _norms(self, indices: list[int], gradients: list[Tensor]) -> list[Tensor]:
        """L2 norms as 0-dim float32 tensors, accumulated in float32 at least."""
        if not self._alone:
            return list(torch._foreach_norm(gradients, 2, dtype=torch.float32))
        if len(self._alone) == len(self._parameters):
            roots = _squares(gradients)
            torch._foreach_sqrt_(roots)
            return roots
        alone = [gradient for index, gradient in zip(indices, gradients, strict=True) if index in self._alone]
        roots = _squares(alone)
        if roots:
            torch._foreach_sqrt_(roots)
        together = [gradient for index, gradient in zip(indices, gradients, strict=True) if index not in self._alone]
        norms = torch._foreach_norm(together, 2, dtype=torch.float32) if together else ()
        one, other = iter(roots), iter(norms)
        return [next(one) if index in self._alone else next(other) for index in indices]

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


def _measured_alone(parameter: Tensor) -> bool:
    """Whether torch's norm of many tensors at once would be wrong, or slower than a dot product, for this one.

    On the CPU it adds up in plain float32 runs: off by 1e-5 at a million elements, by 1 % at a hundred million.
    A dot product in pieces is right, and from some size on also faster. Figures: docs/decisions/0003.
    """
    if parameter.dtype not in _NARROW:
        return True
    if parameter.device.type != "cpu":
        return False
    return parameter.numel() >= (_LONG_ENOUGH_FOR_DOT if parameter.dtype is torch.float32 else _TOO_LONG_FOR_NORM)


def _squares(gradients: list[Tensor]) -> list[Tensor]:
    """Squared L2 norms, 0-dim float32."""
    try:
        # The common case in few words: there may be hundreds of them.
        return [
            torch.dot(flat := gradient.view(-1), flat)
            if gradient.dtype is torch.float32 and gradient.numel() <= _PIECE_OF_DOT
            else _square(gradient)
            for gradient in gradients
        ]
    except RuntimeError:  # one has no flat view
        return [_square(gradient) for gradient in gradients]


def _square(gradient: Tensor) -> Tensor:
    """Squared L2 norm, 0-dim float32."""
    square: Tensor
    if gradient.dtype not in _NARROW or not gradient.is_contiguous():
        real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
        square = torch.linalg.vector_norm(real, dtype=torch.float64).square_().to(torch.float32)
    elif gradient.dtype is torch.float32:
        pieces = gradient.view(-1).split(_PIECE_OF_DOT)
        square = torch.stack([torch.dot(piece, piece) for piece in pieces]).sum()
    else:
        norms = torch._foreach_norm(gradient.view(-1).split(_PIECE_OF_NORM), 2, dtype=torch.float32)
        square = torch.linalg.vector_norm(torch.stack(norms)).square_()
    return square
