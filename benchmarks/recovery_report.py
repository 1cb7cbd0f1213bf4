"""The tables of docs/recovery.md, from the rows that benchmarks/recovery.py kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recovery_faults import KINDS, WAYS

PAGE = Path(__file__).parents[1] / "docs" / "recovery.md"
BEGIN, END = "<!-- from benchmarks/results/recovery.jsonl: begin -->", "<!-- end -->"
TITLES = {
    "untouched": "untouched",
    "clip": "clip 1.0",
    "stabilize": "stabilize",
    "skip": "skip only",
    "arc": "ARC",
    "recovery": "recovery",
}

Row = dict[str, Any]


def write(rows: Sequence[Row]) -> None:
    """Replace what is between the page's two marks."""
    text = PAGE.read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{chr(10).join(page(rows))}\n{END}{after}", encoding="utf-8")


def page(rows: Sequence[Row]) -> Iterator[str]:
    """All lines between the marks."""
    faults = [row for row in rows if row["part"] == "faults"]
    ways = [way for way in WAYS if any(row["way"] == way for row in faults)]
    yield f"\n| fault | {' | '.join(TITLES[way] for way in ways)} |"
    yield f"|---|{'---:|' * len(ways)}"
    totals = dict.fromkeys(ways, 0)
    for kind in KINDS:
        cells = []
        for way in ways:
            found, of = recovered(faults, way, kind)
            totals[way] += found
            cells.append(f"{found} of {of}" if of else "")
        yield f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |"
    runs = {way: sum(row["way"] == way and row["kind"] is not None for row in faults) for way in ways}
    yield f"| **together** | {' | '.join(f'**{totals[way]} of {runs[way]}**' for way in ways)} |"
    for title, options in (
        ("together, at most the largest of the five", {"slack": 0.0}),
        ("together, beside the untouched runs without a fault", {"calm": "untouched"}),
    ):
        sums = [sum(recovered(faults, way, kind, **options)[0] for kind in KINDS) for way in ways]
        yield f"| {title} | {' | '.join(map(str, sums))} |"
    clean = [[row["rollbacks"] for row in faults if row["way"] == way and row["kind"] is None] for way in ways]
    shown = [
        f"{sum(each)} in {len(each)}" if way in ("arc", "recovery") else ""
        for way, each in zip(ways, clean, strict=True)
    ]
    yield f"| rollbacks in runs without a fault | {' | '.join(shown)} |"
    yield ""
    yield "| what | measured | bar |"
    yield "|---|---|---|"
    yield from others(rows)
    yield ""


def recovered(
    faults: Sequence[Row], way: str, kind: str, *, slack: float = 1.0, calm: str | None = None
) -> tuple[int, int]:
    """How many runs of a kind came back, and how many there are. A NaN did not.

    slack: how many times their spread a loss may be above the largest of the runs without a fault. calm: the way of
    those; None: the same.
    """
    mine = [row for row in faults if row["way"] == way and row["kind"] == kind]
    if not mine:
        return 0, 0
    without = [
        row["final"]
        for row in faults
        if row["way"] == (calm or way) and row["kind"] is None and row["recurrent"] == mine[0]["recurrent"]
    ]
    bar = max(without) + slack * (max(without) - min(without))
    return sum(math.isfinite(row["final"]) and row["final"] <= bar for row in mine), len(mine)


def _ranks(rows: Sequence[Row], faults: Sequence[Row]) -> Iterator[str]:
    """Of each way of sharing the model, how many runs came back, beside the runs of one process without a fault."""
    calm = [row for row in faults if row["kind"] is None]
    for sharding, name in (("ddp", "DDP"), ("fsdp2", "FSDP2")):
        mine = [row for row in rows if row["sharding"] == sharding]
        struck = [row for row in mine if row["kind"] is not None]
        if not struck:
            continue
        back = {kind: recovered([*struck, *calm], "recovery", kind) for kind in KINDS}
        missed = [kind.replace("_", " ") for kind, (found, of) in back.items() if found < of]
        but = f", but for {' and '.join(missed)}" if missed else ""
        together = sum(row["one_step"] for row in mine)
        clean = [row["rollbacks"] for row in mine if row["kind"] is None]
        yield (
            f"| the faults on 4 gloo ranks under {name}, {len(struck)} runs of 70 | "
            f"{sum(found for found, _ in back.values())} of {len(struck)} recovered{but}; all ranks at one step in "
            f"{together} of {len(mine)}; {sum(clean)} rollbacks in {len(clean)} runs without a fault | 68 of 70 |"
        )


def others(rows: Sequence[Row]) -> Iterator[str]:
    """The rows that are no faults."""
    part = {
        name: [row for row in rows if row["part"] == name]
        for name in ("ranks", "clean", "wandering", "cost", "memory", "killed", "moments", "one rank", "stays")
    }
    yield from _ranks(part["ranks"], [row for row in rows if row["part"] == "faults"])
    if mine := part["clean"]:
        bits = [row["same_bits"] for row in mine if "same_bits" in row]
        tasks = sorted({row["task"] for row in mine if row["rollbacks"]})
        where = f" ({', '.join(tasks)})" if tasks else ""
        kinds = ", ".join(dict.fromkeys(row["task"] for row in mine))
        yield (
            f"| {len(mine)} clean runs of 60, of the study's {kinds} | {sum(row['rollbacks'] for row in mine)} "
            f"rollbacks{where}; weights equal to the bit to those without recovery in {sum(bits)} of {len(bits)} | 0, "
            "all |"
        )
    for task in dict.fromkeys(row["task"] for row in part["wandering"]):
        mine = [row for row in part["wandering"] if row["task"] == task]
        longest = max(row["steps"] for row in mine)
        shown = []
        for title, some in (
            (f"{longest:,}", [row for row in mine if row["steps"] == longest]),
            ("400", [row for row in mine if row["steps"] == 400]),
        ):
            met = sum(row["first_met"] is not None for row in some)
            shown.append(
                f"{sum(row['rollbacks'] for row in some)} rollbacks in {len(some)} runs of {title} steps, of which "
                f"{met} met a condition that was left alone"
            )
        yield f"| clean runs of {task}, other seeds | {'; '.join(reversed(shown))} | 0 |"
    for row in part["cost"]:
        yield (
            f"| the training thread's time for a step of {row['step_ms']:g} ms on a CPU, a snapshot every 100 | "
            f"{row['percent']:+.1f} %; the same twice without recovery {row['a_a_percent']:+.1f} % | 1 % |"
        )
        yield (
            f"| the memory of its snapshots | {row['held_bytes'] / 2**20:.1f} MiB, reckoned "
            f"{row['reckoned_bytes'] / 2**20:.1f} | as reckoned |"
        )
    for row in part["memory"]:
        first, last = row["mib"]
        yield (
            f"| the process' memory after 2,000 and after {row['steps']:,} steps | {first:g} and {last:g} MiB | flat |"
        )
    if mine := part["killed"]:
        yield (
            "| `kill -9` of the server and its store around a rollback of 4 ranks under DDP: at the alarm, while ranks "
            "are asked, once they have agreed, once restored | one restore at one step on all ranks, equal weights, "
            "each step stored once, the rollback told and noted once: "
            f"{sum(row['one_truth'] for row in mine)} of {len(mine)} | all |"
        )
    if mine := part["moments"]:
        kills, undone = sum(row["kills"] for row in mine), sum(row["undone"] for row in mine)
        yield (
            f"| `kill -9` of the server and its store at {kills} random moments, from three steps before a fault to "
            f"fifteen after it, in {len(mine)} trainings on 4 ranks | the same on all ranks, each step stored once, "
            "each rollback told and noted once, the chain of hashes whole: "
            f"{sum(row['one_truth'] for row in mine)} of {len(mine)}; {undone} of {kills} faults undone | all |"
        )
    if mine := part["one rank"]:
        back = sum(row["ranks_restored"] > 0 for row in mine)
        good = sum(row["one_truth"] and not row["hung"] for row in mine)
        yield (
            f"| `kill -9` of one of 4 ranks at {len(mine)} random moments around a rollback, which came in {back} | "
            "none restored half, none went on with the old weights after another had gone back, none hung: "
            f"{good} of {len(mine)} | all |"
        )
    if mine := part["stays"]:
        ended = [row for row in mine if row["stopped_at"] is not None]
        most = max((len(row["rollbacks"]) for row in mine), default=0)
        late = max((row["stopped_at"] - 300 for row in ended), default=0)
        yield (
            f"| garbage for good, {len(mine)} runs | {len(ended)} asked to stop after at most {most} rollbacks and "
            f"{late} steps | all, after 3 |"
        )
