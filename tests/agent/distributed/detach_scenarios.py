"""Ranks that detach half-way: `python detach_scenarios.py SCENARIO WORLD FOLDER ARGUMENTS`, as scenarios.py."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss

import steadynorm

if TYPE_CHECKING:
    from tests.agent.distributed.scenarios import BATCH, SCENARIOS, Net, data, main, sharded, whole
else:
    from scenarios import BATCH, SCENARIOS, Net, data, main, sharded, whole  # this file runs as a program beside it

STEPS = 20
"""Before ranks leave, and as many after it."""


def left(world: int, kind: str, fold: bool = True) -> dict[str, Any]:
    """Train stabilized, leave on all ranks, train on: whole weights at both times, and what was said.

    fold: by detach(), else by close().
    """
    if kind == "ddp":
        model: torch.nn.Module = torch.nn.parallel.DistributedDataParallel(Net())
        place, parts = dist.get_rank(), world
    else:
        model, place, parts = sharded(kind, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-30)
    agent = steadynorm.attach(model, optimizer, preset="paper")  # whose gains a spike makes large
    share = slice(place * BATCH // parts, (place + 1) * BATCH // parts)

    def train(first: int) -> list[list[float]]:
        for step in range(first, first + STEPS):
            inputs, targets = data(step)
            optimizer.zero_grad()
            mse_loss(model(inputs[share]), targets[share]).backward()
            optimizer.step()
        return [whole(parameter.detach()).flatten().tolist() for parameter in model.parameters()]

    before = train(0)
    report = agent.detach() if fold else None
    agent.close()  # does nothing after detach()
    folds = list(report.parameters.values()) if report is not None else []
    after = train(STEPS)
    return {
        "before": before,
        "after": after,
        "gains": [fold.gain for fold in folds],
        "exact": report is not None and report.exact,
        "eps_shares": [fold.eps_share for fold in folds],
    }


SCENARIOS["left"] = left

if __name__ == "__main__":
    sys.exit(main())
