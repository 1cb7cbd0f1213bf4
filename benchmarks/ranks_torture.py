"""Four ranks that are treated badly: exceptions inside the agent of one, and a server that dies again and again.

    python benchmarks/ranks_torture.py [--runs 50] [--changes 200] [--knobs 200] [--seed 0]

First part: short trainings on four gloo ranks (DDP, FSDP2, tensor and sequence parallel in turn) whose settings change
all the time. In each, one call inside the agent of one rank raises, once or from then on: which rank, step and place is
random. A run whose ranks have not all ended within a deadline counts as a hang. Afterwards all ranks must have taken
all steps, and must have turned the agent off at the same step. Ranks compare fingerprints every 6 boundaries here in
place of every 100, so that short runs do it too.

Second part: one training on four ranks. A driver changes settings at random while the server is killed (SIGKILL) and
started again. Afterwards each rank must have applied the same revisions at the same steps.

Third part: the same with three knobs, one of them an option of the optimizer, turned at random. Each rank must have had
the same values from the same steps on.

Exits with an error if anything is otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rank_processes import WORLD, LevelSnapshot, Ranks, Training, free_port, part_of, wait_for  # beside this file

from steadynorm.distributed import ranks
from steadynorm_contract.client import Client, ClientError, Conflict, ServerUnreachable
from steadynorm_contract.settings import merge
from steadynorm_contract.telemetry import Desired
from steadynorm_server.runtime.process import die_with_parent

STEPS = 24
EXCHANGE_EVERY = 3
COMPARE_EVERY = 6
DEADLINE_S = 30.0  # of a run that takes one second
KINDS = ("ddp", "fsdp", "tensor")
PLACES = (
    "_hooks.0._begin",
    "_hooks.0.restore_rates",
    "_hooks.0._tracker.discover_new",
    "_boundary.begin_step",
    "_boundary.apply_or_reject",
    "_boundary.would_pause",
    "_ranks._fingerprints.take",
    "_ranks._fingerprints.read",
    "_ranks._compare",
    "_stabilizers.0.apply",
    "_stabilizers.0.configure",
    "_stabilizers.0._groups.0.0._measure",
    "_stabilizers.0._groups.0.0._norms",
    "_stabilizers.0._groups.0.0.scale",
    "_stabilizers.0._groups.0.1.update",
    "_stabilizers.0._groups.0.1.decide",
    "_stabilizers.0._statistics.write_rows",
    "_recorder.put",
)
"""Calls inside the agent, from the agent on."""
RANK_0_ONLY = ("_boundary.would_pause", "_recorder.put")
SERVER = """
import sys
from pathlib import Path
from steadynorm_server.config import ServerConfig
from steadynorm_server.runtime.serve import serve
serve(ServerConfig(data=Path(sys.argv[1]), port=int(sys.argv[2])))
"""


# The first part.


def exception(run: int, choose: random.Random) -> dict[str, Any]:
    """What goes wrong in a run."""
    place = choose.choice(PLACES)
    return {
        "kind": KINDS[run % len(KINDS)],
        "place": place,
        "rank": 0 if place in RANK_0_ONLY else choose.randrange(WORLD),
        "step": choose.randrange(2, STEPS - 4 * EXCHANGE_EVERY),
        "once": choose.random() < 0.5,
    }


def failing(kind: str, place: str, rank: int, step: int, once: bool) -> LevelSnapshot:
    """A training in which that goes wrong."""

    def part(me: int) -> dict[str, Any]:
        ranks.COMPARE_EVERY = COMPARE_EVERY
        # Nobody is at the server's address: what is recorded waits.
        server = f"http://127.0.0.1:{free_port()}" if me == 0 and place.startswith("_recorder") else None
        training = Training(kind, server=server, exchange_every=EXCHANGE_EVERY)
        agent, modes, fired = training.agent, [], [0]
        for taken in range(STEPS):
            if me == 0 and taken % 2:
                changed = merge(agent.settings, {"gamma2": 0.9 + 0.001 * taken, "lr_scale": 1.0 - 0.01 * (taken % 5)})
                agent._mailbox.put(Desired(taken, changed))
            broken = taken == step and me == rank
            training.step(lambda broken=broken: break_it(agent, place, once, fired) if broken else None)  # type: ignore[misc]
            modes.append(agent.stabilizers[0].settings.mode.value)
        agent.close()
        return {"modes": modes, "off": agent._errors.off, "fired": fired[0]}

    return part


def break_it(agent: Any, place: str, once: bool, fired: list[int]) -> None:
    """The next call there raises; so do all later ones, unless once."""
    *path, name = place.split(".")
    target = agent
    for part in path:
        target = target[int(part)] if isinstance(target, list | tuple) else getattr(target, part)
    real = getattr(target, name)

    def broken(*args: Any, **kwargs: Any) -> Any:
        fired[0] += 1
        if once and fired[0] > 1:
            return real(*args, **kwargs)
        raise ArithmeticError("injected")

    setattr(target, name, broken)


def exceptions(runs: int, choose: random.Random) -> bool:
    """The first part. Whether all went well."""
    hangs = unfinished = apart = fired = 0
    for run in range(runs):
        given = exception(run, choose)
        with tempfile.TemporaryDirectory() as folder:
            results = Ranks(Path(folder), failing(**given)).results(DEADLINE_S)
            what = f"run {run}, {given['kind']}: {given['place']} on rank {given['rank']} at step {given['step']}"
            if results is None:
                hangs += 1
                print(f"  HANG in {what}")
                continue
            if any(result is None or len(result["modes"]) != STEPS for result in results):
                unfinished += 1
                print(f"  UNFINISHED {what}: {Path(folder, 'log').read_text()[-2000:]}")
                continue
        ended = [result for result in results if result is not None]
        failed = ended[given["rank"]]["fired"] > 0
        fired += failed
        if len({(tuple(each["modes"]), each["off"]) for each in ended}) > 1 or ended[0]["off"] is not failed:
            apart += 1
            print(f"  APART {what}: {[(each['off'], each['modes'].count('off')) for each in ended]}, fired {failed}")
    print(f"  an exception was met in {fired} runs; all agents off, at the same step, in all but {apart} of them")
    print(f"  {runs - hangs - unfinished} of {runs} trainings took all their steps on all ranks")
    print(f"  {hangs} hangs in {runs} runs")
    return not (hangs or unfinished or apart)


# The second part.


def told(server: str) -> LevelSnapshot:
    """A training until an operator stops it. What was in force, and the step from which on."""

    def part(_me: int) -> dict[str, Any]:
        training = Training("ddp", run="torture", server=server, exchange_every=2)
        agent = training.agent
        knobs = [agent.knob("coef", 0.5, low=0, high=1), agent.knob("size", 8, low=1, high=64, integer=True)]
        knobs += agent.optimizer_knobs(training.optimizer, "weight_decay").values()
        applied: list[tuple[int, int]] = []
        turned: list[list[float | None]] = []  # revision, step, values
        while not agent.should_stop:
            training.step()
            if not applied or applied[-1][0] != agent.applied_revision:
                applied.append((agent.applied_revision, agent.step))
                turned.append([agent.applied_revision, agent.step, *(knob.value for knob in knobs)])
            time.sleep(0.002)  # of four ranks on two cores; the server needs some too
        agent.close()
        return {"applied": applied, "turned": turned, "steps": agent.step, "run_id": agent.run_id}

    return part


class Server:
    """A server process that can be killed and started anew at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.kills = 0
        self.start()

    def start(self) -> None:
        with Path(self._folder, "server.log").open("ab") as log:
            program = [sys.executable, "-c", SERVER, str(self._folder), str(self._port)]
            with_us = partial(die_with_parent, os.getpid())
            self._process = subprocess.Popen(program, stdout=log, stderr=log, preexec_fn=with_us)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.kills += 1

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def changes(count: int, choose: random.Random, pick: Callable[[random.Random], dict[str, object]]) -> bool:
    """The second part, or the third. pick: a change. Whether all went well."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["STEADYNORM_HOME"] = name
        server = Server(folder)
        try:
            wait_for(lambda: Path(folder, "token").exists())
            training = Ranks(folder, told(server.url))
            client = Client(server.url, Path(folder, "token").read_text("ascii").strip())
            wait_for(lambda: _or_none(lambda: client.runs().runs))
            run_id = client.runs().runs[0].run_id
            while (_or_none(lambda: client.settings(run_id).revision) or 0) < count:
                killer = None
                if choose.random() < 0.05:
                    killer = threading.Timer(choose.random() * 0.02, server.kill)  # in the midst of a request, or near
                    killer.start()
                change(client, run_id, **pick(choose))
                time.sleep(choose.random() * 0.05)
                if killer is not None:
                    killer.join()
                    time.sleep(choose.random())
                    server.start()
            wait_for(lambda: change(client, run_id, stop=True))
            results = training.results(120.0)
            if results is None or any(result is None for result in results):
                print(f"  HANG, or a rank failed: {Path(folder, 'log').read_text()[-2000:]}")
                return False
            ended = [result for result in results if result is not None]
            revision = client.run(run_id).desired.revision
        finally:
            server.end()
    sequences = [each["applied"] for each in ended]
    same = all(sequence == sequences[0] for sequence in sequences)
    turned = [each["turned"] for each in ended]
    same_values = all(each == turned[0] for each in turned)
    kinds = len({tuple(values) for _, _, *values in turned[0]})
    last = sequences[0][-1][0]
    print(f"  {revision} changes made; server killed {server.kills} times; {ended[0]['steps']} steps")
    print(f"  {len(sequences[0]) - 1} revisions applied, the last one {last}; the others were superseded before")
    print(f"  sequence of (revision, step) {'identical' if same else 'DIFFERENT'} on all {WORLD} ranks")
    print(f"  (revision, step, values) of 3 knobs {'identical' if same_values else 'DIFFERENT'}; {kinds} values")
    return same and same_values and last == revision and len({each["steps"] for each in ended}) == 1


def random_settings(choose: random.Random) -> dict[str, object]:
    """A change."""
    changes: tuple[dict[str, object], ...] = (
        {"mode": choose.choice(("off", "observe", "stabilize"))},
        {"gamma1": round(choose.uniform(0.1, 0.9), 4)},
        {"gamma2": round(choose.uniform(0.9, 0.999), 4)},
        {"spike_limit": choose.choice((None, 3.0, 10.0))},
        {"lr_scale": choose.choice((0.5, 1.0, 2.0))},
        {"paused": choose.random() < 0.3},
    )
    return choose.choice(changes)


def random_knobs(choose: random.Random) -> dict[str, object]:
    """A change of one to three knobs."""
    values: dict[str, object] = {
        "knob.coef": round(choose.random(), 6),
        "knob.size": choose.randint(1, 64),
        "knob.weight_decay": choose.choice((None, 0.0, round(choose.random(), 4))),
    }
    return {name: values[name] for name in choose.sample(sorted(values), choose.randint(1, 3))}


def change(client: Client, run_id: str, **settings: object) -> bool:
    """Whether the server took it; it may be away, or have taken it and died before it said so."""
    try:
        client.change(run_id, settings, revision=client.settings(run_id).revision)
    except Conflict:
        return True
    except (ServerUnreachable, ClientError):
        time.sleep(0.1)
        return False
    return True


def _or_none(ask: Callable[[], Any]) -> Any:
    with suppress(ClientError, ServerUnreachable):
        return ask()
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=50, help="trainings in which one rank fails")
    parser.add_argument("--changes", type=int, default=200, help="changes of settings under a server that dies")
    parser.add_argument("--knobs", type=int, default=200, help="changes of knobs under a server that dies")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    choose = random.Random(options.seed)
    well = True
    if options.runs:
        with part_of(f"exceptions inside the agent of one of {WORLD} ranks"):
            well = exceptions(options.runs, choose)
    if options.changes:
        with part_of(f"changes of settings of {WORLD} ranks while the server is killed and started again"):
            well = changes(options.changes, choose, random_settings) and well
    if options.knobs:
        with part_of(f"changes of knobs of {WORLD} ranks while the server is killed and started again"):
            well = changes(options.knobs, choose, random_knobs) and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
