"""Run a program, and write down the norms of the gradients that its optimizers step with.

    python norms_at_the_optimizer.py program.py norms.json BACKWARD...

The losses of these calls of backward() (counted from 1) are a thousand times as large: spikes.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import register_optimizer_step_post_hook


def watch(spikes: frozenset[int]) -> list[list[float]]:
    """The list that every optimizer step appends its norms to, a number for each tensor."""
    norms: list[list[float]] = []
    calls = 0
    backward: Any = torch.Tensor.backward

    def spiking(loss: torch.Tensor, *arguments: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        backward(loss * 1000 if calls in spikes else loss, *arguments, **named)

    def after(optimizer: torch.optim.Optimizer, *_: object) -> None:  # gradients are as the step found them
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norms.append([norm(each.grad) for each in parameters if each.grad is not None])

    torch.Tensor.backward = spiking  # type: ignore[method-assign, assignment]
    register_optimizer_step_post_hook(after)
    return norms


def norm(grad: torch.Tensor) -> float:
    """Of the whole gradient, also where it is sharded."""
    return float((grad.full_tensor() if isinstance(grad, DTensor) else grad).norm())


if __name__ == "__main__":
    program, output, *calls = sys.argv[1:]
    # The same batches each time: what 50 steps after a spike still hold depends on the norm of its batch.
    torch.manual_seed(0)
    found = watch(frozenset(map(int, calls)))
    sys.path[0] = str(Path(program).resolve().parent)  # as Python has it
    runpy.run_path(program, run_name="__main__")
    Path(output).write_text(json.dumps(found))
