"""The gradients of a fixed list of parameters: gather them, measure their norms, scale them, each in few calls."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from steadynorm.stabilizer.sharding import Shards, local_part

__all__ = ["Gradients"]

_NARROW = (torch.float32, torch.float16, torch.bfloat16)  # their norms accumulate in float32
# In elements:
_LONG_ENOUGH_FOR_DOT = 1 << 14
_TOO_LONG_FOR_NORM = 1 << 18
_TOO_LONG_FOR_DOT = 1 << 20
_ROW = 1 << 14
_LARGEST_HALF = torch.finfo(torch.float16).max

Present = tuple[list[int], list[Tensor]]
"""Indices of the parameters that have a gradient, and the gradients, in the parameters' order."""


class Gradients:
    """`.grad` of `parameters`, all on one device, as lists of dense tensors. Of a sparse gradient, its values.

    Of a sharded one, what this rank holds; its norm is the whole tensor's, see `sharding`.
    Norms and scales are float32 vectors over all parameters, on their device. A product is taken in float32 at least
    and rounded once, to the gradient's dtype: a scale of 1e7 brings a half-precision gradient of 1e-7 to 1.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self.shards = Shards.among(parameters)  # None: all of every tensor is here
        self._alone = {index for index, p in enumerate(parameters) if _measured_alone(local_part(p))}
        # Whether gradients have to be looked at one by one: complex ones, and if any was sparse or of another dtype.
        self._unusual = any(parameter.is_complex() for parameter in parameters)
        self._norms_of: Tensor | None = None
        self._norm_views: list[Tensor] = []
        self._scales_of: Tensor | None = None
        self._scale_views: list[Tensor] = []

    def collect(self) -> Present:
        """Indices and gradients of the parameters that have one."""
        # Identity, not `None in found`: that would compare every tensor, element by element.
        pairs = [(index, gradient) for index, p in enumerate(self._parameters) if (gradient := p.grad) is not None]
        if self._unusual:
            pairs = [(index, self._dense(index, gradient)) for index, gradient in pairs]
        indices, gradients = [index for index, _ in pairs], [gradient for _, gradient in pairs]
        return indices, gradients if self.shards is None else self.shards.local(indices, gradients)

    def measure(self, out: Tensor) -> Present:
        """Write each gradient's L2 norm into `out` (float32 [P]; 0 where there is none). Returns `collect()`."""
        if self.shards is None or self.shards.retired:
            return self._measure_here(out)
        try:
            present = self._measure_here(out)
        except BaseException:
            self.sit_out(out)  # the other ranks wait for this one, whatever happened to it
            raise
        self.shards.add_up(out)
        return present

    def sit_out(self, out: Tensor) -> None:
        """Nothing is measured here in this step. Other ranks that hold shards may wait for this one: tell them."""
        if self.shards is None:
            return
        with suppress(Exception):
            self.collect()  # a gradient that is a sum still split over ranks is brought together by all of them
        if not self.shards.retired:
            self.shards.add_up(out, failed=True)

    def _measure_here(self, out: Tensor) -> Present:
        try:
            return self._measure(out)
        except RuntimeError:
            # Looking for sparse gradients in every step would cost more than to be told of the first one.
            if self._unusual:
                raise
            self._unusual = True
            return self._measure(out)

    def _measure(self, out: Tensor) -> Present:
        indices, gradients = self.collect()
        if not gradients:
            out.zero_()
        elif len(gradients) == len(self._parameters):
            torch.stack(self._norms(indices, gradients), out=out)
        else:
            if self._norms_of is not out:
                self._norms_of, self._norm_views = out, list(out.unbind())
            norms = self._norms(indices, gradients)
            out.zero_()
            torch._foreach_copy_([self._norm_views[index] for index in indices], norms)
        return indices, gradients

    def _dense(self, index: int, gradient: Tensor) -> Tensor:
        """The gradient's memory as a dense tensor. A sparse one is coalesced first (which waits for the device)."""
        if gradient.is_conj():
            gradient = self._parameters[index].grad = gradient.resolve_conj()
        if gradient.layout is not torch.sparse_coo:
            return gradient
        if not gradient.is_coalesced():
            gradient = self._parameters[index].grad = gradient.coalesce()
        return gradient._values()

    def _norms(self, indices: list[int], gradients: list[Tensor]) -> list[Tensor]:
        """L2 norms as 0-dim float32 tensors, accumulated in float32 at least."""
        chosen = self._alone
        if self._unusual:
            others = zip(indices, gradients, strict=True)
            chosen = chosen | {index for index, gradient in others if gradient.dtype not in _NARROW}
        if not chosen:
            return list(torch._foreach_norm(gradients, 2, dtype=torch.float32))
        if len(chosen) == len(self._parameters):
            roots = _squares(gradients)
            torch._foreach_sqrt_(roots)
            return roots
        alone = [gradient for index, gradient in zip(indices, gradients, strict=True) if index in chosen]
        roots = _squares(alone)
        if roots:
            torch._foreach_sqrt_(roots)
        together = [gradient for index, gradient in zip(indices, gradients, strict=True) if index not in chosen]
        norms = torch._foreach_norm(together, 2, dtype=torch.float32) if together else ()
        one, other = iter(roots), iter(norms)
        return [next(one) if index in chosen else next(other) for index in indices]

    def scale(self, present: Present, scales: Tensor, finite: Tensor | None = None) -> None:
        """Multiply each gradient by its entry of `scales` (float32 [P]), in place.

        finite: bool [P]; where it is false the gradient becomes exactly zero, since 0 times NaN is NaN.
        """
        indices, gradients = present
        if not gradients:
            return
        if self._scales_of is not scales:
            self._scales_of = scales
            self._scale_views = [
                scale.view(1) if _rounds_scales(parameter) else scale
                for parameter, scale in zip(self._parameters, scales.unbind(), strict=True)
            ]
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

    def saturate(self, present: Present) -> None:
        """Bring float16 gradients that went beyond the dtype's range back to its edge.

        With a loss scale of 65536 on top, even a gradient of norm 1 can be out of range.
        """
        halves = [gradient for gradient in present[1] if gradient.dtype is torch.float16]
        if halves:
            torch._foreach_clamp_min_(halves, -_LARGEST_HALF)
            torch._foreach_clamp_max_(halves, _LARGEST_HALF)


def _rounds_scales(parameter: Tensor) -> bool:
    """Whether a 0-dim scale would be rounded to the gradient's dtype before the product, and 1e5 become infinite.

    On the CPU torch takes such a scale as a number; on an accelerator, and for complex halves, by the rules of type
    promotion, where a tensor without dimensions has no say, and one of shape [1] has.
    """
    if parameter.dim() == 0:
        return False
    if parameter.dtype is torch.complex32:
        return True
    return parameter.device.type != "cpu" and parameter.dtype in (torch.float16, torch.bfloat16)


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
            if gradient.dtype is torch.float32 and gradient.numel() <= _TOO_LONG_FOR_DOT
            else _square(gradient)
            for gradient in gradients
        ]
    except RuntimeError:  # one has no flat view
        return [_square(gradient) for gradient in gradients]


def _square(gradient: Tensor) -> Tensor:
    """Squared L2 norm, 0-dim float32."""
    square: Tensor
    if gradient.dtype not in _NARROW or not gradient.is_contiguous():
        real = torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient
        square = torch.linalg.vector_norm(real, dtype=torch.float64).square_().to(torch.float32)
    else:
        # By rows, in one call: its threads take the same halves of the memory as the scaling that follows, and find
        # them in their own caches. Dot products of pieces are four times slower where cores share no cache.
        flat = gradient.view(-1)
        whole = flat.numel() - flat.numel() % _ROW
        norms = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1, dtype=torch.float32)
        square = torch.dot(norms, norms) + torch.linalg.vector_norm(flat[whole:], dtype=torch.float32).square_()
    return square
