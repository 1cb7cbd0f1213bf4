"""The gradients of a fixed list of parameters: collect them, measure their norms, scale them, in few calls each."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from steadynorm.stabilizer.alike import Stacks
from steadynorm.stabilizer.sharding import Shards, is_sharded, local_part

_NARROW = (torch.float32, torch.float16, torch.bfloat16)  # their norms accumulate in float32
# In elements:
_LONG_ENOUGH_FOR_DOT = 1 << 14
_TOO_LONG_FOR_NORM = 1 << 18
_TOO_LONG_FOR_DOT = 1 << 20
_ROW = 1 << 14
_LARGEST_HALF = torch.finfo(torch.float16).max

_GROUP_BYTES = 16 * 1024 * 1024
"""On the CPU, gradients are measured and scaled in groups of this size: the second pass finds them in the cache."""

Present = tuple[list[int], list[Tensor]]
"""Indices of the parameters that have a gradient, and the gradients, in the parameters' order."""


class Gradients:
    """`.grad` of `parameters`, all on one device, as lists of dense tensors.

    A sparse gradient is represented by its values, a sharded one by this rank's part; its norm is the whole tensor's,
    see `sharding`. Norms and scales are float32 vectors over all parameters, on their device. A product is computed in
    float32 at least and rounded once, to the gradient's dtype: a scale of 1e7 brings a half-precision gradient of 1e-7
    to 1.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self.shards = Shards.among(parameters)  # None: no tensor is sharded
        self._separate = {index for index, part in enumerate(self.parts) if _is_measured_separately(part)}
        # Whether gradients are checked one by one: complex ones, and once any was sparse or of another dtype.
        self._unusual = any(parameter.is_complex() for parameter in parameters)
        self._all = list(range(len(parameters)))
        self._stacks = None if self._unusual or self.shards else Stacks.among(parameters)
        self._norms_of: Tensor | None = None
        self._norm_views: list[Tensor] = []
        self._scales_of: Tensor | None = None
        self._scale_views: list[Tensor] = []

    @property
    def parts(self) -> list[Tensor]:
        """This rank's parts of the parameters."""
        with torch.no_grad():
            return [local_part(parameter) for parameter in self._parameters]

    def release(self, index: int, placeholder: Tensor) -> None:
        """Let go of a parameter: what takes its place has no gradient."""
        self._parameters[index] = placeholder

    def collect(self) -> Present:
        """Indices and gradients of the parameters that have one."""
        # Identity, not `None in found`: that would compare every tensor, element by element.
        gradients = [gradient for p in self._parameters if (gradient := p.grad) is not None]
        indices = self._all
        if len(gradients) < len(indices):
            indices = [index for index, p in enumerate(self._parameters) if p.grad is not None]
        if self._unusual:
            gradients = [self._dense(index, gradient) for index, gradient in zip(indices, gradients, strict=True)]
        return indices, gradients if self.shards is None else self.shards.local(indices, gradients)

    def all(self) -> list[Tensor | None]:
        """This rank's part of every gradient as it is, None where there is none."""
        found = [parameter.grad for parameter in self._parameters]
        if self.shards is None:
            return found
        indices = [index for index, gradient in enumerate(found) if gradient is not None]
        local = self.shards.local(indices, [found[index] for index in indices])
        for index, gradient in zip(indices, local, strict=True):
            found[index] = gradient
        return found

    def collect_some(self, indices: list[int]) -> Present:
        """As `collect()`, of the gradients of these parameters, which all have one and may be unlike them."""
        self._unusual = True
        gradients = [self._parameters[index].grad for index in indices]
        dense = [self._dense(index, each) for index, each in zip(indices, gradients, strict=True) if each is not None]
        return indices, dense if self.shards is None else self.shards.local(indices, dense)

    def measure_some(self, present: Present, out: Tensor) -> None:
        """Write the L2 norms of `collect_some()` into `out` (float32 [P]), and nothing for others."""
        indices, gradients = present
        torch._foreach_copy_([out[index] for index in indices], self._norms(indices, gradients))

    def measure(self, out: Tensor, measure_here: Callable[[Tensor], Present] | None = None) -> Present:
        """Write each gradient's L2 norm into `out` (float32 [P]; 0 where there is none). Returns `collect()`.

        measure_here: does that for this rank's parts, where not torch is to do it.
        """
        measure_here = measure_here or self._measure_here
        if self.shards is None or self.shards.disabled:
            return measure_here(out)
        try:
            present = measure_here(out)
        except BaseException:
            self.skip(out)  # the other ranks wait for this one, whatever failed here
            raise
        self.shards.reduce(out)
        return present

    def skip(self, out: Tensor) -> None:
        """Measure nothing in this step. Other ranks that hold shards may wait for this one: report it to them."""
        if self.shards is None:
            return
        with suppress(Exception):
            self.collect()  # a partial sum is redistributed, which is a collective call
        if not self.shards.disabled:
            self.shards.reduce(out, failed=True)

    def _measure_here(self, out: Tensor) -> Present:
        try:
            return self._measure(out)
        except RuntimeError:
            # Checking for sparse gradients in every step would cost more than to fail on the first one.
            if self._unusual:
                raise
            self._unusual = True
            return self._measure(out)

    def _measure(self, out: Tensor) -> Present:
        indices, gradients = self.collect()
        if not gradients:
            out.zero_()
        elif len(gradients) == len(self._parameters):
            if self._stacks is None or self._unusual:
                torch.stack(self._norms(indices, gradients), out=out)
            else:
                self._stacks.measure(gradients, out, self._norms)
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
        separate = self._separate
        if self._unusual:
            pairs = zip(indices, gradients, strict=True)
            separate = separate | {index for index, gradient in pairs if gradient.dtype not in _NARROW}
        if not separate:
            return _norms_at_once(gradients)
        if len(separate) == len(self._parameters) == len(gradients):
            roots = _squares(gradients)
            torch._foreach_sqrt_(roots)
            return roots
        roots = _squares([gradient for index, gradient in zip(indices, gradients, strict=True) if index in separate])
        if roots:
            torch._foreach_sqrt_(roots)
        others = [gradient for index, gradient in zip(indices, gradients, strict=True) if index not in separate]
        norms = _norms_at_once(others) if others else []
        next_root, next_norm = iter(roots), iter(norms)
        return [next(next_root) if index in separate else next(next_norm) for index in indices]

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
            # In host memory reading is no synchronization, and saves a pass over every gradient.
            is_finite: list[bool] = finite.tolist()
            if not all(is_finite):
                for index, gradient in zip(indices, gradients, strict=True):
                    if not is_finite[index]:
                        gradient.zero_()
        else:
            broken = finite.logical_not().unbind()
            for index, gradient in zip(indices, gradients, strict=True):
                gradient.masked_fill_(broken[index], 0)

    def saturate(self, present: Present) -> None:
        """Clamp float16 gradients to the dtype's range.

        Multiplied by a loss scale of 65536, even a gradient of norm 1 can be out of range.
        """
        halves = [gradient for gradient in present[1] if gradient.dtype is torch.float16]
        if halves:
            torch._foreach_clamp_min_(halves, -_LARGEST_HALF)
            torch._foreach_clamp_max_(halves, _LARGEST_HALF)


def group_bounds(parameters: list[Tensor], device: torch.device) -> list[tuple[int, int]]:
    """Start and stop of consecutive groups of parameters.

    One group on an accelerator, where launches cost most, and where parameters are sharded: one collective a step.
    """
    if device.type != "cpu" or any(map(is_sharded, parameters)):
        return [(0, len(parameters))]
    bounds, start, size = [], 0, 0
    for index, parameter in enumerate(parameters):
        grown = size + parameter.numel() * parameter.element_size()
        if index > start and grown > _GROUP_BYTES:
            bounds.append((start, index))
            start, grown = index, grown - size
        size = grown
    return [*bounds, (start, len(parameters))]


def multiply_all(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiply all by a 0-dim tensor in host memory, in place. 0: they become exactly zero, as 0 times NaN is NaN."""
    number = float(factor)  # in host memory that is no synchronization, and most steps of a clip are below its limit
    if not gradients or number == 1.0:
        return
    if number:
        torch._foreach_mul_(gradients, factor)
    else:
        torch._foreach_zero_(gradients)


def _rounds_scales(parameter: Tensor) -> bool:
    """Whether a 0-dim scale would be rounded to the gradient's dtype before the product, and 1e5 become infinite.

    On the CPU torch treats such a scale as a number; on an accelerator, and for complex halves, it follows the rules of
    type promotion, which ignore a 0-dim tensor's dtype but not that of one of shape [1].
    """
    if parameter.dim() == 0:
        return False
    if parameter.dtype is torch.complex32:
        return True
    return parameter.device.type != "cpu" and parameter.dtype in (torch.float16, torch.bfloat16)


def _is_measured_separately(parameter: Tensor) -> bool:
    """Whether torch's norm of many tensors at once would be inaccurate, or slower than a dot product, for this one.

    On the CPU it accumulates in plain float32: off by 1e-5 at a million elements, by 1 % at a hundred million. A dot
    product in pieces is accurate, and from some size on also faster. Figures: docs/decisions/0003.
    """
    if parameter.dtype not in _NARROW:
        return True
    if parameter.device.type != "cpu":
        return False
    return parameter.numel() >= (_LONG_ENOUGH_FOR_DOT if parameter.dtype is torch.float32 else _TOO_LONG_FOR_NORM)


def _norms_at_once(gradients: list[Tensor]) -> list[Tensor]:
    """L2 norms, 0-dim float32. On an accelerator torch takes many at once only of one dtype: else a launch each."""
    if gradients[0].device.type == "cpu" or len({gradient.dtype for gradient in gradients}) == 1:
        return list(torch._foreach_norm(gradients, 2, dtype=torch.float32))
    norms: list[Tensor] = [gradients[0]] * len(gradients)
    for dtype in {gradient.dtype for gradient in gradients}:
        places = [place for place, gradient in enumerate(gradients) if gradient.dtype is dtype]
        found = torch._foreach_norm([gradients[place] for place in places], 2, dtype=torch.float32)
        for place, norm in zip(places, found, strict=True):
            norms[place] = norm
    return norms


def _squares(gradients: list[Tensor]) -> list[Tensor]:
    """Squared L2 norms, 0-dim float32."""
    try:
        # The common case inline: there may be hundreds of them.
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
        # By rows, in one call: its threads read the same parts of the memory as the scaling that follows, and find
        # them in their own caches. Dot products of pieces are four times slower where cores share no cache.
        flat = gradient.view(-1)
        whole = flat.numel() - flat.numel() % _ROW
        norms = torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1, dtype=torch.float32)
        square = torch.dot(norms, norms) + torch.linalg.vector_norm(flat[whole:], dtype=torch.float32).square_()
    return square
