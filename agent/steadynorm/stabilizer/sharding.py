"""Whole-tensor norms of sharded parameters (DTensor: FSDP2, tensor parallel, HSDP): one collective a step and mesh.

Each rank measures what it holds. A tensor's squares, each divided by the number of ranks that hold the same piece, add
up over the mesh to the square of the whole tensor's norm, so all tensors of a mesh travel as one vector in one
all-reduce. Sums are float64 on the way: the order of the ranks does not show, and no norm under- or overflows.

A collective that one rank does not enter hangs the others. So every rank enters it in every step, whatever gradients
it has, and also when its own part failed: it says so in the vector's last entry, and in that step all ranks let the
gradients pass, with the magnitude that stabilizing gave them so far.
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

__all__ = ["Shards", "is_sharded", "local_part"]


def is_sharded(tensor: object) -> bool:
    """Whether `tensor` is a DTensor. Asking costs no import: without torch's module for them there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_part(tensor: Any) -> Tensor:
    """What this rank holds of a DTensor, in the same memory; any other tensor as it is."""
    local: Tensor = tensor.detach().to_local() if is_sharded(tensor) else tensor
    if hasattr(local, "trigger_wait"):  # a collective is under way that makes it
        local = local.trigger_wait()
    return local


class Shards:
    """The DTensors among `parameters`, which must be the same, in the same order, on all ranks of their meshes.

    Making it is collective over the ranks of each mesh that has several dimensions and is not the whole world.
    Raises ValueError for a parameter that is placed as a partial sum.

    entered: collectives that this rank took part in. failed: bool, 0-dim: whether a rank's part of the last step did.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.entered = 0
        self.retired = False  # all ranks have agreed to measure no more
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
            if mesh.get_coordinate() is not None:  # else another rank's, of a mesh that this one is not in
                by_ranks.setdefault(tuple(sorted(mesh.mesh.flatten().tolist())), []).append(at)
        # In the same order on all ranks, which may be in several meshes each.
        self._meshes = [
            _Mesh(ranks, places, [self._specs[at] for at in places], device)
            for ranks, places in sorted(by_ranks.items())
        ]

    def _sharded(self) -> Iterator[tuple[int, Any]]:
        return ((at, parameter) for at, parameter in enumerate(self._parameters) if is_sharded(parameter))

    @classmethod
    def among(cls, parameters: Sequence[Tensor]) -> Shards | None:
        """None where there is nothing to add up over ranks."""
        return cls(parameters) if any(map(is_sharded, parameters)) else None

    def local(self, indices: Sequence[int], gradients: Sequence[Any]) -> list[Tensor]:
        """What this rank holds of `gradients`, in their memory.

        A gradient that is placed otherwise than its parameter (as a sum still split over ranks, which sequence
        parallel leaves behind) is first brought to its parameter's placement: the optimizer would do it otherwise.
        """
        here = []
        for at, gradient in zip(indices, gradients, strict=True):
            if at in self._specs and is_sharded(gradient):
                mesh, placements = self._specs[at]
                if gradient.placements != placements:
                    gradient = gradient.redistribute(mesh, placements)
                    self._parameters[at].grad = gradient
            here.append(local_part(gradient))
        return here

    def add_up(self, norms: Tensor, *, failed: bool = False) -> None:
        """From each rank's norms to the whole tensors', in place: float32 [P], 0 where this rank has no gradient.

        failed: this rank could not measure. Where any could not, all of `norms` become 0, as if there were no gradient.
        """
        self.entered += 1
        if failed:
            norms.zero_()
        self.failed.fill_(failed)
        for mesh in self._meshes:
            mesh.add_up(norms, self.failed)
        norms.masked_fill_(self.failed, 0.0)


class _Mesh:
    """The parameters of one set of ranks. places: their indices; specs: mesh and placements of each."""

    def __init__(
        self, ranks: tuple[int, ...], places: list[int], specs: list[tuple[DeviceMesh, Any]], device: torch.device
    ) -> None:
        mesh = specs[0][0]
        self._group = _group_of(ranks, mesh)
        # With CPU offload gradients are in host memory, and the mesh may know no collectives there.
        there = torch.device(mesh.device_type) if mesh.device_type != device.type else device
        self._places = torch.tensor(places, device=device)
        shares = [1.0 / _copies(mesh, placements) for mesh, placements in specs]
        self._shares = torch.tensor(shares, dtype=torch.float64, device=device)
        self._sums = torch.zeros(len(places) + 1, dtype=torch.float64, device=there)

    def add_up(self, norms: Tensor, failed: Tensor) -> None:
        squares = norms.index_select(0, self._places).double().square_().mul_(self._shares)
        self._sums[:-1].copy_(squares)
        self._sums[-1].copy_(failed)
        torch.distributed.all_reduce(self._sums, group=self._group)
        norms.index_copy_(0, self._places, self._sums[:-1].sqrt().to(norms.device, norms.dtype))
        failed.logical_or_(self._sums[-1].to(failed.device) > 0)


def _copies(mesh: DeviceMesh, placements: Sequence[Any]) -> int:
    """How many ranks hold each piece."""
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
