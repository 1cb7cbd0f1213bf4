"""Every row of "Does it work with …?" holds, and no optimizer of a library is left out of it."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from tests.docs.works_with import Row, cases, check, rows

LEFT_OUT = {
    "pytorch_optimizer": {
        "LOMO", "AdaLOMO",  # they update within backward(), and have no gradients at step()
        "BSAM", "GSAM", "WSAM", "PCGrad", "SafeFP16Optimizer",  # need parts of a training of their own
        "DeMo", "DistributedMuon",  # reduce gradients over ranks within step()
        "AliG", "DualAdam", "MuonClip", "Shampoo", "SpectralSphere",  # not deterministic, or not for so small a model
    },
    "bitsandbytes.optim": {"AdEMAMix32bit", "PagedAdEMAMix32bit"},  # fail by themselves for the CPU
    "torch": set(),
    "torchao.optim": {"CPUOffloadOptimizer"},  # needs a GPU
    "schedulefree": {  # for comparison by their authors, not to train with
        "ScheduleFreeWrapperReference", "AdamWScheduleFreePaper",
        "AdamWScheduleFreeReference", "SGDScheduleFreeReference",
    },
}  # fmt: skip


@pytest.mark.parametrize(("row", "name"), cases(), ids=lambda value: value if isinstance(value, str) else value.library)
def test_an_optimizer_is_attached_as_the_table_says(row: Row, name: str) -> None:
    check(row, name)


@pytest.mark.parametrize("library", LEFT_OUT)
def test_no_optimizer_of_a_library_is_left_out(library: str) -> None:
    module = importlib.import_module("torch.optim" if library == "torch" else library)
    there = {
        name for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer and name[0] != "_"
    }  # fmt: skip
    listed = {name for row in rows() if row.library == library for name in row.names}
    assert there - LEFT_OUT[library] <= listed
