"""For benchmarks/recovery.py: `kill -9` of the server and its store around a rollback of four ranks under DDP.

Rank 0 stops at the moment that is asked for until the server is dead, so that each run has the same. The ranks go on
without one; another server is started on the same data, and gets what was kept for it. Then: was it restored once, at
one step, with the same weights on all ranks? Does the history have each step once, and the rollback once, as
an event and as a note, and does the audit list's chain of hashes hold?
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rank_processes import WORLD, Ranks, free_port, wait_for

import steadynorm
from steadynorm_contract.client import Client
from steadynorm_server.runtime.process import die_with_parent

MOMENTS = ("alarm", "proposed", "agreed", "restored")
"""A detector's condition is met; all ranks are asked; all have agreed, as the step runs; written back, not told yet."""

BAD = range(60, 64)
STEPS_WITHOUT, STEPS_AFTER = 40, 40
RUN_ID = "killed-0"

Row = dict[str, Any]


class _Strike:
    """Rank 0: says once that its moment has come, and waits for the end of the server."""

    def __init__(self, folder: Path, moment: str) -> None:
        self.at = 0
        self._folder, self._moment = folder, moment

    def come(self, moment: str, holds: object, step: int) -> None:
        """If this is the moment."""
        if moment != self._moment or not holds or self.at:
            return
        self.at = step
        (self._folder / "struck").touch()
        wait_for((self._folder / "killed").exists)


def _train(folder: Path, server: str, moment: str, rank: int) -> Row:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(
        torch.nn.Sequential(torch.nn.Linear(7, 16), torch.nn.Linear(16, 1))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recovery = steadynorm.Recovery(
        mode="act", every_steps=10, confirm_steps=4, detectors=["loss > 20 x median of 20 for 2 steps"]
    )
    agent = steadynorm.attach(
        model, optimizer, run="killed", server=server, mode="observe", exchange_every=2, recovery=recovery
    )
    control: Any = agent._recovery
    strike, events = _Strike(folder, moment if rank == 0 else ""), []
    agent.on_rollback(lambda event: events.append((event.from_step, event.to_step)))
    agent.on_rollback(lambda event: strike.come("restored", True, agent.step))
    optimizer.register_step_pre_hook(lambda *_: strike.come("agreed", control._order, agent.step))
    left, step = None, 0
    while left != 0:
        step += 1
        generator = torch.Generator().manual_seed(WORLD * step + rank)
        inputs = torch.randn(8, 7, generator=generator)
        optimizer.zero_grad()
        loss = (model(inputs) - inputs.sum(1, keepdim=True) * (1e4 if step in BAD else 1.0)).square().mean()
        loss.backward()
        optimizer.step()
        agent.log(loss=loss)
        if rank == 0:
            strike.come("alarm", control._watch.alarm, agent.step)
            strike.come("proposed", control.proposed, agent.step)
        time.sleep(0.02)  # detectors are evaluated a few times a second, as in a training that takes longer for a step
        again = torch.tensor(float((folder / "again").exists() or step > 3_000))
        dist.broadcast(again, 0)
        left = STEPS_AFTER if left is None and again else left and left - 1
    if rank == 0:
        wait_for(lambda: agent.flush(1.0))
    hashed = hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in model.parameters())).hexdigest()
    found = {"events": events, "step": agent.step, "weights": hashed, "off": agent._errors.off, "struck": strike.at}
    agent.close()
    return found


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A server with its own store, in a group of processes of its own."""
    log = (folder / "server").open("ab")
    server = subprocess.Popen(
        [sys.executable, "-m", "steadynorm_cli", "server", "--port", str(port), "--data", str(folder / "data")],
        stdout=log, stderr=log, start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()),
        env={**os.environ, "STEADYNORM_HOME": str(folder / "data")},
    )  # fmt: skip
    wait_for(lambda: server.poll() is not None or b" at http" in (folder / "server").read_bytes(), 300)
    return server


def end_server(server: subprocess.Popen[bytes]) -> None:
    """With its store, by SIGKILL."""
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def killed(row: Row) -> Row:
    """One run."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        url = os.environ["STEADYNORM_SERVER"] = f"http://127.0.0.1:{port}"
        os.environ["STEADYNORM_HOME"] = str(folder / "data")  # where the agent finds the server's token
        server = start_server(folder, port)
        ranks = Ranks(folder, lambda rank: _train(folder, url, row["moment"], rank))
        wait_for((folder / "struck").exists)
        end_server(server)
        (folder / "killed").touch()
        time.sleep(0.02 * STEPS_WITHOUT)
        (folder / "server").unlink()
        server = start_server(folder, port)
        (folder / "again").touch()
        results = ranks.results(120) or []
        try:
            return {**row, **judge(results, Client(url, (folder / "data" / "token").read_text("ascii").strip()))}
        finally:
            end_server(server)


def judge(results: list[Any], client: Client, faults: int | None = 1) -> Row:
    """What ranks and server say, and whether it is one story. faults: how many were to be undone; None: any number."""
    first = results[0] if len(results) == WORLD and all(results) else None
    if first is None:
        return {"one_truth": False, "why": "a rank did not end"}
    run = client.runs().runs[0]
    detail = client.run(run.run_id)
    told = [each for each in client.events(run.run_id, limit=2000).events if each.kind == "rollback"]
    series = client.series(run.run_id, ["raw_norm"], points=4000).series["raw_norm"]
    notes = [each for each in client.notes(run.run_id).notes if "rolled back from" in each.text]
    chain = client.audit(run.run_id, verify=True).chain
    found = {
        "same_on_all_ranks": all({**each, "struck": 0} == {**first, "struck": 0} for each in results),
        "rollbacks": first["events"],
        "told": [(each.step, int(each.value or 0)) for each in told],
        "counted": detail.rollbacks,
        "noted": len(notes),
        "chain": chain is not None and chain.verified,
        "steps": first["step"],
        "stored_steps": sum(series.count),
        "off": first["off"],
    }
    if "struck" in first:
        found["struck_at"] = first["struck"]
    once = (
        len(first["events"]) == found["counted"] == len(notes) == (found["counted"] if faults is None else faults)
        and found["chain"]
        and [list(each) for each in sorted(found["told"])] == first["events"]
    )
    whole = found["steps"] == found["stored_steps"] == detail.step
    return {**found, "one_truth": bool(found["same_on_all_ranks"] and once and whole and not first["off"])}
