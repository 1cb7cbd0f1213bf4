"""Is a run brought back? Measures the rows of docs/recovery.md, keeps them, and writes the page's tables from them.

    python benchmarks/recovery.py                       # every part but ARC's: some minutes on two cores
    python benchmarks/recovery.py faults --ways arc     # where arc-training 5.2.0.post1 is installed beside steadynorm
    python benchmarks/recovery.py --report              # the page, from the rows that are kept; runs nothing

Everything is seeded. Each run is a row of `benchmarks/results/recovery.jsonl`, written when it ends; what is there is
not measured again, unless with --again.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import recovery_calm
import recovery_killed
import recovery_moments
import recovery_ranks
import recovery_report
import torch
from recovery_faults import KINDS, WAYS, train

from steadynorm_server.runtime.process import die_with_parent

KEPT = Path(__file__).parent / "results" / "recovery.jsonl"
SEEDS = 5

Row = dict[str, Any]


def quiet(parent: int) -> None:
    """In each process, which ends with its parent: one core, and nothing on the screen but rows."""
    die_with_parent(parent)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def fault(row: Row) -> Row:
    """One run of a fault, or of none."""
    final, rollbacks = train(row["way"], row["kind"], row["seed"], recurrent=row["recurrent"])
    return {**row, "final": round(final, 4), "rollbacks": rollbacks}


def faults(ways: Sequence[str]) -> Iterator[Row]:
    """What is to be measured: each kind, and none with each of the two models, in each way and with each seed."""
    met: list[tuple[str | None, bool]] = [(None, False), (None, True)]
    met += [(kind, kind == "exploding_rnn") for kind in KINDS]
    for way in ways:
        for kind, recurrent in met:
            for seed in range(SEEDS):
                yield {"part": "faults", "way": way, "kind": kind, "seed": seed, "recurrent": recurrent}


def rank_faults(ways: Sequence[str]) -> Iterator[Row]:
    """The same on four ranks, in our way."""
    for seed in range(SEEDS):
        for sharding in recovery_ranks.SHARDINGS:
            for row in faults(["recovery"]):
                if row["seed"] == seed:
                    yield {**row, "part": "ranks", "sharding": sharding}


def clean_runs(ways: Sequence[str]) -> Iterator[Row]:
    """Six tasks of the study at rates that train them."""
    for seed in range(SEEDS):
        for rate in recovery_calm.RATES:
            for task in recovery_calm.TASKS:
                yield {"part": "clean", "task": task, "rate": rate, "seed": seed}


PARTS: dict[str, tuple[Callable[[Sequence[str]], Iterator[Row]], Callable[[Row], Row]]] = {
    "faults": (faults, fault),
    "ranks": (rank_faults, recovery_ranks.on_ranks),
    "clean": (clean_runs, recovery_calm.clean),
    "wandering": (lambda ways: recovery_calm.wandering_runs(), recovery_calm.wandering),
    "stays": (lambda ways: ({"part": "stays", "seed": seed} for seed in range(SEEDS)), recovery_calm.stays),
    "cost": (lambda ways: iter([{"part": "cost"}]), recovery_calm.cost),
    "killed": (
        lambda ways: ({"part": "killed", "moment": moment} for moment in recovery_killed.MOMENTS),
        recovery_killed.killed,
    ),
    "moments": (
        lambda ways: ({"part": "moments", "round": number} for number in range(recovery_moments.ROUNDS)),
        recovery_moments.servers,
    ),
    "one rank": (
        lambda ways: ({"part": "one rank", "round": number} for number in range(recovery_moments.RANK_ROUNDS)),
        recovery_moments.one_rank,
    ),
    "memory": (lambda ways: iter([{"part": "memory"}]), recovery_calm.memory),
}


def kept() -> list[Row]:
    """What was measured so far."""
    return [json.loads(line) for line in KEPT.read_text("utf-8").splitlines()] if KEPT.exists() else []


def same(row: Row, other: Row) -> bool:
    """Whether `other` is the measured one of `row`."""
    return all(name in other and other[name] == value for name, value in row.items())


def measure(parts: Sequence[str], ways: Sequence[str], *, again: bool) -> None:
    """Measure what is not there, two at a time, and keep each when it is."""
    for part in parts:
        rows, one = PARTS[part]
        wanted, there = list(rows(ways)), kept()
        KEPT.parent.mkdir(exist_ok=True)
        if again:
            there = [each for each in there if not any(same(row, each) for row in wanted)]
            KEPT.write_text("".join(json.dumps(each) + "\n" for each in there), encoding="utf-8")
        missing = [row for row in wanted if not any(same(row, each) for each in there)]
        with multiprocessing.Pool(2, quiet, (os.getpid(),)) as pool:
            for done in pool.imap_unordered(one, missing):
                print(json.dumps(done), flush=True)
                with KEPT.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done) + "\n")


def main() -> int:
    """Measure and keep, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--ways", nargs="+", default=[way for way in WAYS if way != "arc"], choices=WAYS)
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--report", action="store_true", help="write docs/recovery.md's tables, and measure nothing")
    given = parser.parse_args()
    began = time.monotonic()
    if given.report:
        recovery_report.write(kept())
    else:
        measure(given.parts, given.ways, again=given.again)
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
