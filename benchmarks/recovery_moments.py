"""For benchmarks/recovery.py: `kill -9` at random moments around rollbacks of four ranks under DDP.

Of the server and its store: one training with ten faults, each followed by a kill at a random step from three before
the fault to fifteen after it, and at a random instant within that step. A server is started again on the same data at
once; the ranks never wait for it. In the end there must be one history and one truth, see `recovery_killed`.

Of one rank: the others cannot go on, which is torch's doing. Every rank writes down the weights after each of its
steps. No rank may have taken a step with old weights after the others went back, and what went back must be what was
saved.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rank_processes import WORLD, Ranks, free_port, wait_for
from recovery_killed import end_server, judge, start_server

import steadynorm
from steadynorm_contract.client import Client

ROUNDS, KILLS = 5, 10
RANK_ROUNDS = 50
BAD_STEPS, FIRST_BAD, BETWEEN = 4, 60, 40
EARLIEST, LATEST = -3, 15  # steps of a kill, from the fault on
STEP_S = 0.02
RUN_ID = "moments-0"

Row = dict[str, Any]


class _Loop:
    """One rank's small training. Its data break on rank 0, whose loss the detectors see."""

    def __init__(self, server: str, rank: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = torch.nn.parallel.DistributedDataParallel(
            torch.nn.Sequential(torch.nn.Linear(7, 16), torch.nn.Linear(16, 1))
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        recovery = steadynorm.Recovery(
            mode="act",
            every_steps=10,
            confirm_steps=4,
            held_steps=10,
            max_rollbacks=1_000,
            detectors=["loss > 20 x median of 20 for 2 steps"],
        )
        self.agent = steadynorm.attach(
            self.model,
            self.optimizer,
            run="moments",
            server=server,
            mode="observe",
            exchange_every=2,
            recovery=recovery,
        )
        self.rank, self.events = rank, list[tuple[int, int]]()
        self.agent.on_rollback(lambda event: self.events.append((event.from_step, event.to_step)))

    def step(self, number: int, *, bad: bool) -> None:
        """One step, as long as one of a larger training."""
        inputs = torch.randn(8, 7, generator=torch.Generator().manual_seed(WORLD * number + self.rank))
        factor = 1e4 if bad and self.rank == 0 else 1.0
        self.optimizer.zero_grad()
        loss = (self.model(inputs) - factor * inputs.sum(1, keepdim=True)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.agent.log(loss=loss)
        time.sleep(STEP_S)

    def weights(self) -> str:
        """A hash of them."""
        flat = b"".join(each.detach().numpy().tobytes() for each in self.model.parameters())
        return hashlib.sha256(flat).hexdigest()


def _faulty(folder: Path, server: str, offsets: list[int], rank: int) -> Row:
    """Train through a fault for each of `offsets`; rank 0 says when the time of each kill has come."""
    loop, number, fault, since = _Loop(server, rank), 0, 0, FIRST_BAD - BETWEEN
    bad_from: int | None = None
    while True:
        number, since = number + 1, since + 1
        if rank == 0:
            if bad_from is None and fault < len(offsets) and since > BETWEEN + EARLIEST:
                bad_from = number - EARLIEST
            if bad_from is not None and number >= bad_from + offsets[fault]:
                (folder / f"kill{fault}").touch()
            if bad_from is not None and number > bad_from + LATEST and (folder / f"up{fault}").exists():
                fault, since, bad_from = fault + 1, 0, None
        bad = bad_from is not None and bad_from <= number < bad_from + BAD_STEPS
        loop.step(number, bad=bad)
        over = torch.tensor(float((fault == len(offsets) and since > BETWEEN) or number > 20_000))
        dist.broadcast(over, 0)
        if over:
            break
    if rank == 0:
        wait_for(lambda: loop.agent.flush(1.0))
    found = {
        "events": loop.events, "step": loop.agent.step, "weights": loop.weights(), "off": loop.agent._errors.off,
    }  # fmt: skip
    loop.agent.close()
    return found


def servers(row: Row) -> Row:
    """A training whose server and store are killed ten times."""
    chosen = random.Random(row["round"])
    offsets = [chosen.randint(EARLIEST, LATEST) for _ in range(KILLS)]
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        url = os.environ["STEADYNORM_SERVER"] = f"http://127.0.0.1:{port}"
        os.environ["STEADYNORM_HOME"] = str(folder / "data")  # where the agent finds the server's token
        server = start_server(folder, port)
        try:
            ranks = Ranks(folder, lambda rank: _faulty(folder, url, offsets, rank))
            for kill in range(KILLS):
                wait_for((folder / f"kill{kill}").exists, 600)
                time.sleep(chosen.uniform(0, 2 * STEP_S))
                end_server(server)
                (folder / "server").unlink()
                server = start_server(folder, port)
                (folder / f"up{kill}").touch()
            results = ranks.results(600) or []
            client = Client(url, (folder / "data" / "token").read_text("ascii").strip())
            found = judge(results, client, None)
            return {**row, "kills": KILLS, "undone": len(found.get("rollbacks", ())), "offsets": offsets, **found}
        finally:
            end_server(server)


def _written_down(folder: Path, kill_at: int, victim: int, rank: int) -> Row:
    """Train until it ends by itself, or by the end of another; each step's weights are in a file."""
    loop, number = _Loop("", rank), 0
    with (folder / f"steps{rank}").open("a", encoding="ascii", buffering=1) as file:
        loop.agent.on_rollback(
            lambda event: file.write(f"restored {event.from_step} {event.to_step} {loop.weights()}\n")
        )
        while number < FIRST_BAD + 3 * LATEST:
            number += 1
            if rank == victim and number == kill_at:
                (folder / "kill").touch()
            loop.step(number, bad=FIRST_BAD <= number < FIRST_BAD + BAD_STEPS)
            if not loop.events or loop.events[-1][0] != loop.agent.step:
                file.write(f"step {loop.agent.step} - {loop.weights()}\n")
    return {}


def one_rank(row: Row) -> Row:
    """A training one of whose ranks is killed."""
    chosen = random.Random(1_000 + row["round"])
    victim, kill_at = row["round"] % WORLD, FIRST_BAD + chosen.randint(EARLIEST, LATEST)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = Ranks(folder, lambda rank: _written_down(folder, kill_at, victim, rank))
        wait_for((folder / "kill").exists, 600)
        time.sleep(chosen.uniform(0, 2 * STEP_S))
        os.kill(ranks.children[victim], signal.SIGKILL)
        results = ranks.results(600)
        said = [list(_lines(folder / f"steps{rank}")) for rank in range(WORLD)]
    return {**row, "victim": victim, "kill_at": kill_at, "hung": results is None, **_judge_ranks(said)}


def _lines(file: Path) -> Iterator[tuple[str, int, str, str]]:
    """What a rank wrote down, but for a last line that its end cut off."""
    for line in file.read_text("ascii").splitlines():
        if len(parts := line.split()) == 4 and len(parts[3]) == 64:
            yield parts[0], int(parts[1]), parts[2], parts[3]


def _judge_ranks(said: list[list[tuple[str, int, str, str]]]) -> Row:
    """Whether none restored half, and none went on with the old weights after another had gone back."""
    after: dict[tuple[str, int], set[str]] = {}
    for lines in said:
        for kind, step, _, weights in lines:
            after.setdefault((kind, step), set()).add(weights)
    alike = all(len(found) == 1 for found in after.values())
    restored = {(step, to) for lines in said for kind, step, to, _ in lines if kind == "restored"}
    whole = all(
        weights in after.get(("step", int(to)), ())
        for lines in said
        for kind, _, to, weights in lines
        if kind == "restored"
    )
    last = min((step for step, _ in restored), default=10**9)
    stayed = [
        lines for lines in said if not any(kind == "restored" for kind, *_ in lines)
    ]  # the run ended before they could go back
    late = any(step > last for lines in stayed for _, step, _, _ in lines)
    return {
        "restored": sorted(restored), "ranks_restored": WORLD - len(stayed),
        "one_truth": bool(alike and whole and len(restored) <= 1 and not late),
    }  # fmt: skip
