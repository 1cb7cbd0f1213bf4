"""Steps with the kernels on a driver that launches nothing, for test_selection.py. Prints JSON: what each launch gets.

First as Triton finds the compiled kernel at each launch, then as it was found at the first one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.jit import JITFunction

from steadynorm.stabilizer.kernels import compiled
from steadynorm.stabilizer.kernels.launcher import MultiTensor
from steadynorm.stabilizer.statistics import RING_COLUMNS, Statistics
from steadynorm_contract.settings import Mode

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks"))
from gpu_host import fake_driver

SIZES = (3, 70_000, 1, 16, 5_000)


def shown(argument: object) -> object:
    return argument if isinstance(argument, int) else str(getattr(argument, "dtype", argument))


LAUNCHES: list[list[object]] = []
SEARCHES: list[object] = []  # each time that Triton is asked which compiled kernel fits


def launched(*given: object) -> None:
    """In place of a GPU. After the grid are the stream, the function and what profilers hook into."""
    LAUNCHES.append([*map(shown, given[:3]), *map(shown, given[9:])])


def steps() -> dict[str, Any]:
    """What the launches of three steps in stabilize and three in clip get, and how often Triton was asked."""
    LAUNCHES.clear()
    SEARCHES.clear()
    parameters = [
        torch.nn.Parameter(torch.zeros(size, dtype=dtype))
        for size in SIZES
        for dtype in (torch.float32, torch.bfloat16)
    ]
    rows = torch.zeros(len(parameters), len(RING_COLUMNS))
    kernels = MultiTensor(list(parameters), Statistics.allocate(len(parameters), rows.device), rows, Mode.STABILIZE)
    for each in parameters:
        each.grad = torch.ones_like(each)
    for _ in range(3):
        kernels.step(Mode.STABILIZE, True, None, None)
        kernels.step(Mode.CLIP, True, None, None, lambda norms: torch.ones(()))
    return {"launches": list(LAUNCHES), "searches": len(SEARCHES)}


def main() -> None:
    triton.runtime.driver.set_active(fake_driver(launched))
    search = JITFunction.run

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        SEARCHES.append(self)
        return search(self, *args, **kwargs)

    JITFunction.run = counted
    by_version, compiled._TAKES_CONSTANTS = compiled._TAKES_CONSTANTS, False
    searched = steps()
    compiled._TAKES_CONSTANTS = by_version
    print(json.dumps({"searched": searched, "found": steps()}))


if __name__ == "__main__":
    main()
