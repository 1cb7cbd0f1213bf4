"""Ranks that break and are brought back: `python recovery_scenarios.py SCENARIO WORLD FOLDER ARGUMENTS`."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss

import steadynorm

if TYPE_CHECKING:
    from tests.agent.distributed.scenarios import BATCH, SCENARIOS, Net, data, main, sharded
else:
    from scenarios import BATCH, SCENARIOS, Net, data, main, sharded  # this file runs as a program beside it

BAD = range(36, 40)


class Heard(logging.Handler):
    """What the agent said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def local(tensor: Any) -> list[float]:
    """This rank's part of a tensor."""
    mine = tensor.detach()
    flat: list[float] = (mine.to_local() if hasattr(mine, "to_local") else mine).flatten().tolist()
    return flat


def rolled_back(
    world: int,
    kind: str,
    steps: int = 60,
    lost_on: int | None = None,
    server: str = "",
    stay: bool = False,
    error_on: int | None = None,
    mean: bool = False,
) -> dict[str, Any]:
    """Train with a fault; this rank's parts at the snapshot and after the restore, and what was told.

    lost_on: a rank that lost its snapshots. stay: the fault does not go away. error_on: a rank on which the agent fails
    once the ranks were asked whether they can go back. mean: the detector looks at the mean of the ranks' losses, and
    only the last rank meets the fault.
    """
    heard = Heard()
    logging.getLogger("steadynorm").addHandler(heard)
    if kind == "ddp":
        model: torch.nn.Module = torch.nn.parallel.DistributedDataParallel(Net())
        place, parts = dist.get_rank(), world
    else:
        model, place, parts = sharded(kind, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recovery = steadynorm.Recovery(
        mode="act",
        every_steps=10,
        confirm_steps=4,
        held_steps=5,
        budget_steps=1000,
        detectors=["loss/mean > 20 x median of 20 for 2 steps" if mean else "loss > 20 x median of 20 for 2 steps"],
    )
    agent = steadynorm.attach(model, optimizer, server=server, exchange_every=2, recovery=recovery)
    if mean:
        agent.describe("loss/mean", reduce="mean")
    share = slice(place * BATCH // parts, (place + 1) * BATCH // parts)

    def state() -> list[list[float]]:
        moments = [each["exp_avg"] for each in optimizer.state.values()]
        return [local(each) for each in (*model.parameters(), *moments)]

    events: list[tuple[int, int, list[list[float]]]] = []
    agent.on_rollback(lambda event: events.append((event.from_step, event.to_step, state())))
    kept: dict[int, list[list[float]]] = {}
    waiting = agent.should_stop
    for step in range(1, steps + 1):
        inputs, targets = data(step)
        factor = 1e4 if step in BAD or (stay and step >= BAD.start) else 1e-3 if step == 13 else 1.0
        if mean and dist.get_rank() < world - 1:
            factor = 1.0
        optimizer.zero_grad()
        loss = mse_loss(model(inputs[share]), factor * targets[share])
        loss.backward()
        if lost_on == dist.get_rank() and step == 38:
            agent._recovery.snapshots.clear()  # type: ignore[union-attr]
        optimizer.step()
        agent.log({"loss/mean": loss} if mean else None, loss=1.0 if mean else loss)
        agent.flush()
        kept[step] = state()
        if error_on == dist.get_rank() and agent._recovery.proposed is not None:  # type: ignore[union-attr]
            error_on = None
            try:
                raise RuntimeError("injected")
            except RuntimeError:
                agent._errors.record()
        waiting = agent.should_stop
        if waiting:
            break
    result = {
        "events": [(come, go) for come, go, _ in events],
        "restored": [after == kept[go] for _, go, after in events],
        "step": agent.step,
        "taken": len(kept),
        "snapshots": agent.snapshots,
        "off": agent._errors.off,
        "stopped": waiting,
        "held": agent._boundary.held_lr,
        "said": heard.said,
    }
    agent.close()
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


def broken(world: int) -> dict[str, Any]:
    """The last rank's weights stop being finite right before a snapshot: what each rank has before and after."""
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 1 + dist.get_rank())  # each rank has a part of its own, as in a pipeline
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    recovery = steadynorm.Recovery(mode="act", every_steps=20, confirm_steps=4, detectors=[])
    agent = steadynorm.attach(net, optimizer, server="", mode="observe", exchange_every=10, recovery=recovery)
    events: list[tuple[int, int]] = []
    agent.on_rollback(lambda event: events.append((event.from_step, event.to_step)))
    for step in range(1, 121):
        optimizer.zero_grad()
        net(data(step)[0][:, :4]).square().mean().backward()
        optimizer.step()
        agent.flush()
        if step == 60 and dist.get_rank() == world - 1:
            with torch.no_grad():
                net.bias.fill_(torch.inf)
    result = {
        "events": events,
        "off": agent._errors.off,
        "snapshots": agent.snapshots,
        "finite": all(bool(each.isfinite().all()) for each in net.parameters()),
    }
    agent.close()
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


def skipped(world: int) -> dict[str, Any]:
    """All weights become NaN under a GradScaler, which leaves out every step from then on."""
    model = torch.nn.parallel.DistributedDataParallel(Net())
    optimizer, scaler = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.amp.GradScaler("cpu", init_scale=4.0)
    recovery = steadynorm.Recovery(mode="act", every_steps=10, confirm_steps=4, detectors=[], scaler=scaler)
    agent = steadynorm.attach(model, optimizer, server="", mode="observe", exchange_every=2, recovery=recovery)
    events: list[tuple[int, int]] = []
    agent.on_rollback(lambda event: events.append((event.from_step, event.to_step)))
    share = slice(dist.get_rank() * BATCH // world, (dist.get_rank() + 1) * BATCH // world)
    for batch in range(1, 61):
        inputs, targets = data(batch)
        optimizer.zero_grad()
        scaler.scale(mse_loss(model(inputs[share]), targets[share])).backward()
        scaler.step(optimizer)
        scaler.update()
        agent.flush()
        if batch == 35:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(torch.nan)
    result = {
        "events": events,
        "step": agent.step,
        "off": agent._errors.off,
        "weights": [local(each) for each in model.parameters()],
    }
    agent.close()
    return json.loads(json.dumps(result))  # type: ignore[no-any-return]


def disagreeing(world: int) -> str:
    """Ranks that pass different intervals."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    try:
        steadynorm.attach(
            net, optimizer, server="", recovery=steadynorm.Recovery(every_steps=10 + 10 * dist.get_rank())
        )
    except ValueError as error:
        return str(error)
    return ""


SCENARIOS["rolled back"] = lambda world, kinds, **more: {kind: rolled_back(world, kind, **more) for kind in kinds}
SCENARIOS["broken"] = broken
SCENARIOS["skipped"] = skipped
SCENARIOS["disagreeing"] = disagreeing

if __name__ == "__main__":
    sys.exit(main())
