"""Ranks that log scalars to be reduced, see `scenarios.py`: as they should, and otherwise."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

import steadynorm
from steadynorm.distributed import reductions

if TYPE_CHECKING:
    from tests.agent.distributed.injected_errors import break_it
    from tests.agent.distributed.scenarios import SCENARIOS, main
else:
    from injected_errors import break_it  # this file runs as a program beside it
    from scenarios import SCENARIOS, main

reductions.LAST_VALUES_S = 1.0  # of ranks on a busy machine that do come


def reduced(
    world: int,
    server: str,
    *,
    run: str,
    steps: int = 12,
    described_by: list[int] | None = None,
    only_logged_by: list[int] | None = None,
    late: int = 0,
    stride: int = 1,
    names: int = 0,
    before: bool = False,
    flushed: bool = False,
    nan_at: int = 0,
    apart_at: int | None = None,
    fails: bool = False,
    silent: list[int] | None = None,
    saved_at: int = 0,
    loaded_at: int = 0,
) -> dict[str, Any]:
    """Log `mean`, `max` and `own` as step + 100 * rank in each of so many steps.

    described_by, only_logged_by: ranks that ask for the reduction, that log `mean`; None: all. late: steps before that.
    stride: of the loop's own numbers of steps. names: further ones that are reduced. before: numbers are logged before
    the step. flushed: each step is sent before the next one. nan_at: the step at which the last rank logs NaN.
    apart_at: the step at which its exchange breaks. fails: it ends as failed. silent: ranks that log `own` only.
    saved_at, loaded_at: after the former step a checkpoint is written, and after the latter all ranks go back to it;
    from then on 1000 more is logged. With `before`, the step that was to come after the latter has been logged by then.
    """
    rank = dist.get_rank()
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0001)
    agent = steadynorm.attach(model, optimizer, run=run, server=server, exchange_every=2)
    state: dict[str, Any] = {}
    history = 0.0  # added to what is logged
    while agent.step < steps:
        step = agent.step + 1
        if step == late + 1 and (described_by is None or rank in described_by):
            agent.describe("mean", unit="things", reduce="mean")
            agent.describe("max", reduce="max")
            agent.describe("mean", unit="things")
            for at in range(names):
                agent.describe(f"many/{at}", reduce="mean")
        if step == apart_at and rank == world - 1:
            break_it(agent, "_ranks._exchange.complete", once=True)
        value = float("nan") if step == nan_at and rank == world - 1 else step + 100.0 * rank + history
        logged: dict[str, float] = {"own": value}
        if rank not in (silent or ()):
            logged["max"] = value
        if only_logged_by is None or rank in only_logged_by:
            logged["mean"] = value
        if names and step == steps:
            logged |= {f"many/{at}": value for at in range(names)}
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if before:
            agent.log(logged, loss=value)
        if step == loaded_at + 1 and not history and loaded_at:
            agent.load_state_dict(state)
            history = 1000.0
            continue
        optimizer.step()
        if not before:
            agent.log(logged, loss=value, step=stride * step)
        if flushed:
            agent.flush()
        if step == saved_at:
            state = agent.state_dict()
    agent.close(state="failed" if fails and rank else "finished")
    return {"findings": {finding.name: finding.message for finding in agent.health().findings}}


SCENARIOS["several reduced"] = lambda world, server, runs: [reduced(world, server, **each) for each in runs]

if __name__ == "__main__":
    sys.exit(main())
