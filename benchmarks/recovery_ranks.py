"""For benchmarks/recovery.py: the fourteen faults on four gloo ranks, under DDP and under FSDP2.

The training is that of the one process, each batch shared among the ranks. A broken batch is one rank's, and so is what
breaks in weights, gradients or optimizer state where they are sharded; replicas break alike. The ranks exchange every
five steps: in a training of 600 the usual ten would take back more than its final loss can bear. Beside the usual
detectors there is the one that docs/recovery.md names for several ranks, on the mean of their losses.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from rank_processes import WORLD, Ranks
from recovery_faults import BATCH, FAULT, KINDS, RATE, STEPS, Data, Recurrent, Run, dense, local
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import steadynorm

SHARDINGS = ("ddp", "fsdp2")
EXCHANGE_EVERY = 5

Row = dict[str, Any]


def on_ranks(row: Row) -> Row:
    """One run of a fault, or of none."""
    with tempfile.TemporaryDirectory() as folder:
        results = Ranks(Path(folder), lambda rank: _train(row, rank)).results(900)
        if results is None or None in results:
            return {**row, "final": None, "rollbacks": 0, "one_step": False}
    first = results[0]
    assert first is not None
    told = [{"rollbacks": each["rollbacks"], "step": each["step"], "off": each["off"]} for each in results if each]
    weights = {each["weights"] for each in results if each}
    return {
        **row,
        "final": round(first["final"], 4),
        "rollbacks": len(first["rollbacks"]),
        "one_step": all(each == told[0] for each in told) and (row["sharding"] != "ddp" or len(weights) == 1),
    }


def _train(row: Row, rank: int) -> Row:
    torch.set_num_threads(1)
    torch.manual_seed(row["seed"])
    sharded, data = row["sharding"] == "fsdp2", Data()
    model: Any = Recurrent() if row["recurrent"] else dense()
    if sharded:
        fully_shard(model, mesh=init_device_mesh("cpu", (WORLD,)))
    else:
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    detectors = [*steadynorm.DETECTORS, "loss/mean > mean + 3 sigma of 200, 20 times in 30 steps"]
    recovery = steadynorm.Recovery(mode="act", every_steps=50, held_steps=50, detectors=detectors)
    agent = steadynorm.attach(
        model, optimizer, run="benchmark", server="", preset="robust", exchange_every=EXCHANGE_EVERY, recovery=recovery
    )
    agent.describe("loss/mean", reduce="mean")
    events: list[tuple[int, int]] = []
    agent.on_rollback(lambda event: events.append((event.from_step, event.to_step)))
    share = slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD)
    for step in range(1, STEPS + 1):
        inputs, labels = data.batch(row["seed"], step)
        run = Run(model, optimizer, inputs[share], labels[share], step - FAULT, data, rank=rank, sharded=sharded)
        if row["kind"] is not None and step >= FAULT:
            KINDS[row["kind"]](run)
            if len(run.inputs) == BATCH:  # the stuck batch, which is a whole one
                run.inputs, run.labels = run.inputs[share], run.labels[share]
        optimizer.zero_grad()
        loss = cross_entropy(model(run.inputs), run.labels) * run.factor
        loss.backward()
        run.gradients()
        optimizer.step()
        agent.log({"loss/mean": loss}, loss=loss)
        agent.flush()
        if agent.should_stop:
            break
    found = {"rollbacks": events, "step": agent.step, "off": agent._errors.off}
    agent.close()
    with torch.no_grad():
        held_out, classes = data.batch(10_000, 0, 4096)
        final = float(cross_entropy(model(held_out), classes))
    hashed = hashlib.sha256(b"".join(local(each.detach()).numpy().tobytes() for each in model.parameters()))
    return {**found, "final": final, "weights": hashed.hexdigest()}
