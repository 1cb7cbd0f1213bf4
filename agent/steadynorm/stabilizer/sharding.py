"""Whole-tensor norms of sharded parameters (DTensor: FSDP2, tensor parallel, HSDP): one collective a step and mesh.

Each rank measures its own part. A tensor's squared norms, each divided by the number of ranks that hold the same part,
add up over the mesh to the square of the whole tensor's norm, so one all-reduce of one vector serves all tensors of a
mesh. Sums are float64: the result does not depend on the order of the ranks, and no norm under- or overflows.

A collective that one rank does not enter hangs the others. So every rank enters it in every step, whatever gradients
it has, and also when its own part failed: it reports that in the vector's last entry, and in that step all ranks pass
the gradients through, with the magnitude that stabilizing gave them so far.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


def is_sharded(tensor: object) -> bool:
    """Whether `tensor` is a DTensor. Needs no import: while torch's module for them is not loaded there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Any) -> Tensor:
    """This rank's part of a DTensor, in the same memory; any other tensor unchanged. Call it under `no_grad()`.

    There `to_local()` is an attribute's value; with a `detach()` before it, it costs 70 times as much.
    """
    local: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    if hasattr(local, "trigger_wait"):  # the result of a collective that is in progress
        local = local.trigger_wait()
    return local


class Shards:
    """The DTensors among `parameters`, which must be the same, in the same order, on all ranks of their meshes.

    Constructing it is collective over the ranks of each mesh that has several dimensions and is not the whole world.
    Raises ValueError for a parameter that is placed as a partial sum.

    entered: collectives that this rank entered. failed: bool, 0-dim: whether any rank failed in the last step.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.entered = 0
        self.disabled = False  # all ranks have agreed to measure no more
        self._parameters = parameters
        self._specs = {at: (p.device_mesh, p.placements) for at, p in self._sharded()}
        device = parameters[0].device
        self.failed = torch.zeros((), dtype=torch.bool, device=device)
        by_ranks: dict[tuple[int, ...], list[int]] = {}
        for at, (mesh, placements) in self._specs.items():
            if any(placement.is_partial() for placement in placements):
                raise ValueError(
                    f"a parameter must be replicated or sharded: got {placements} on {mesh}, shape "
                    f"{tuple(parameters[at].shape)}. Redistribute it before the optimizer is made."
                )
            if mesh.get_coordinate() is not None:  # else of a mesh that this rank is not in
                by_ranks.setdefault(tuple(sorted(mesh.mesh.flatten().tolist())), []).append(at)
        # In the same order on all ranks, which may be in several meshes each.
        self._meshes = [
            _Mesh(ranks, indices, [self._specs[at] for at in indices], device)
            for ranks, indices in sorted(by_ranks.items())
        ]

    def _sharded(self) -> Iterator[tuple[int, Any]]:
        return ((at, parameter) for at, parameter in enumerate(self._parameters) if is_sharded(parameter))

    @classmethod
    def among(cls, parameters: Sequence[Tensor]) -> Shards | None:
        """None where no parameter is sharded."""
        return cls(parameters) if any(map(is_sharded, parameters)) else None

    @property
    def memory(self) -> object:
        """What `reduce()` computes with, besides norms."""
        return self.failed, self._meshes

    def local(self, indices: Sequence[int], gradients: Sequence[Any]) -> list[Tensor]:
        """This rank's parts of `gradients`, in their memory.

        A gradient whose placement differs from its parameter's (a partial sum, as sequence parallelism leaves it) is
        first redistributed to the parameter's placement, as the optimizer would do.
        """
        parts = []
        for at, gradient in zip(indices, gradients, strict=True):
            if at in self._specs and is_sharded(gradient):
                mesh, placements = self._specs[at]
                if gradient.placements != placements:
                    gradient = gradient.redistribute(mesh, placements)
                    self._parameters[at].grad = gradient
            parts.append(local_part(gradient))
        return parts

    def reduce(self, norms: Tensor, *, failed: bool = False) -> None:
        """Replace this rank's norms by the whole tensors', in place: float32 [P], 0 where it has no gradient.

        failed: this rank could not measure. Where any could not, all of `norms` become 0, as if there were no gradient.
        """
        self.entered += 1
        if failed:
            norms.zero_()
        self.failed.fill_(failed)
        for mesh in self._meshes:
            mesh.reduce(norms, self.failed)
        norms.masked_fill_(self.failed, 0.0)


class _Mesh:
    """The parameters of one set of ranks. indices: theirs; specs: mesh and placements of each."""

    def __init__(
        self, ranks: tuple[int, ...], indices: list[int], specs: list[tuple[DeviceMesh, Any]], device: torch.device
    ) -> None:
        mesh = specs[0][0]
        self._group = _group_of(ranks, mesh)
        # With CPU offload gradients are in host memory, where the mesh may support no collectives.
        mesh_device = torch.device(mesh.device_type) if mesh.device_type != device.type else device
        self._indices = torch.tensor(indices, dtype=torch.int64, device=device)
        shares = [1.0 / _copies(mesh, placements) for mesh, placements in specs]
        self._shares = torch.tensor(shares, dtype=torch.float64, device=device)
        self._sums = torch.zeros(len(indices) + 1, dtype=torch.float64, device=mesh_device)

    def reduce(self, norms: Tensor, failed: Tensor) -> None:
        squares = norms.index_select(0, self._indices).double().square_().mul_(self._shares)
        self._sums[:-1].copy_(squares)
        self._sums[-1].copy_(failed)
        torch.distributed.all_reduce(self._sums, group=self._group)
        norms.index_copy_(0, self._indices, self._sums[:-1].sqrt().to(norms.device, norms.dtype))
        failed.logical_or_(self._sums[-1].to(failed.device) > 0)


def _copies(mesh: DeviceMesh, placements: Sequence[Any]) -> int:
    """How many ranks hold the same part."""
    copies = 1
    for dimension, placement in enumerate(placements):
        copies *= mesh.size(dimension) if placement.is_replicate() else 1
    return copies


def _group_of(ranks: tuple[int, ...], mesh: DeviceMesh) -> ProcessGroup | None:
    """A group of all the mesh's ranks; None: the default one, which is the world."""
    if mesh.ndim == 1:
        return mesh.get_group()
    if len(ranks) == torch.distributed.get_world_size():
        return None
    group: ProcessGroup = torch.distributed.new_group(list(ranks), use_local_synchronization=True)
    return group
