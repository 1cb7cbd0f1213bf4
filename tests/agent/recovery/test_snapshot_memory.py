"""What snapshots take: memory that is allocated once, and what is refused because it does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.recovery import Loop

import steadynorm
from steadynorm.recovery import memory


def test_memory_is_allocated_once() -> None:
    loop = Loop()
    loop.train(45)
    held = loop.agent._recovery.snapshots._free[0]._tensors  # type: ignore[union-attr]
    places = {path: tensor.data_ptr() for path, tensor in held.items()}
    loop.train(60)
    buffers = loop.agent._recovery.snapshots  # type: ignore[union-attr]
    everyone = [*buffers._free, *(each.buffers for each in buffers._held)]
    assert len(everyone) == 3
    (same,) = [each for each in everyone if each._tensors is held]
    assert {path: tensor.data_ptr() for path, tensor in same._tensors.items()} == places


def test_a_snapshot_that_does_not_fit_is_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(256, 1024, bias=False)  # 1 MiB, and Adam's two moments: 3 MiB, three times
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match=r"max_host_gib = 0\.001 GiB on a host: got 9\.0 MiB on .*Lower keep"):
        steadynorm.attach(model, optimizer, server="", recovery=steadynorm.Recovery(max_host_gib=0.001))
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * 1024**2)
    with pytest.raises(ValueError, match=r"60 % of the memory .*got 9\.0 MiB of 10\.0 MiB"):
        steadynorm.attach(model, optimizer, server="", recovery=steadynorm.Recovery())
    steadynorm.attach(model, optimizer, server="", recovery=steadynorm.Recovery(keep=1)).close()


def test_the_memory_of_a_control_group_counts(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    free = memory.available_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert memory.available_bytes() > 2**20
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory.available_bytes() == 4000 < free
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 700\nactive_file 5\n")
    assert memory.available_bytes() == 4700  # files' pages are given up when memory is needed
    own = tmp_path / "jobs" / "mine"
    own.mkdir(parents=True)
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "groups")
    (tmp_path / "groups").write_text("0::/jobs/mine\n")
    (own / "memory.max").write_text("3000\n")
    (own / "memory.current").write_text("500\n")
    assert memory.available_bytes() == 2500
    (own.parent / "memory.max").write_text("800\n")  # what is around it holds too
    (own.parent / "memory.current").write_text("500\n")
    assert memory.available_bytes() == 300
    old = tmp_path / "memory" / "docker"
    old.mkdir(parents=True)
    (tmp_path / "groups").write_text("5:cpu,cpuacct:/docker\n4:memory:/docker\n")
    (old / "memory.limit_in_bytes").write_text("600\n")
    (old / "memory.usage_in_bytes").write_text("400\n")
    (old / "memory.stat").write_text("inactive_file 10\ntotal_inactive_file 50\n")
    assert memory.available_bytes() == 250


def test_pinned_memory_is_reckoned_as_torch_takes_it() -> None:
    class OnGpu:
        is_cuda = True

        def __init__(self, size: int) -> None:
            self.size = size

        def detach(self) -> OnGpu:
            return self

        def numel(self) -> int:
            return self.size

        def element_size(self) -> int:
            return 1

    sizes = {0: 0, 1: 1, 4096: 4096, 4097: 8192}
    assert {size: memory._held_bytes(OnGpu(size)) for size in sizes} == sizes  # type: ignore[arg-type]


def test_snapshots_keep_no_memory_of_parameters_that_were_exchanged() -> None:
    loop = Loop()
    loop.train(12)
    snapshots = loop.agent._recovery.snapshots  # type: ignore[union-attr]  # it has some

    def held() -> int:
        buffers = [*snapshots._free, *(each.buffers for each in snapshots._held)]
        return max(len(each._tensors) for each in buffers)

    before, group = held(), loop.optimizers[0].param_groups[0]["params"]
    for _ in range(8):
        old, layer = group[-1], loop.model[4]
        layer.bias = group[-1] = torch.nn.Parameter(old.detach().clone())
        del loop.optimizers[0].state[old], old
        loop.train(10)
    assert held() <= before + 1  # the statistics of the one that came
