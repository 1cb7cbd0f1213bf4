"""What the order of a step's chunks saves on a GPU, by reckoning: no GPU is needed, and nothing is measured.

    python benchmarks/gpu_l2_model.py [--parameters 1e9] [--json FILE]

An L2 that keeps what was used last, and programs that advance alike: each of the resident ones does a block a turn, and
the next takes the place of one that is done. Counted are the bytes that go to and from memory, beside those of
`clip_grad_norm_(foreach=True)`, which reads all gradients, then reads and writes them; and launches. `floor` is what no
kernel that writes scaled gradients can go below: a norm is known only once its whole tensor was read, so of a tensor
larger than L2 all that exceeds it is read twice.

An H100's L2 of 50 MB is hashed over two partitions, so what of it serves one program is not known: hence two sizes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from steadynorm.stabilizer.kernels.plan import BLOCK, Plan

RESIDENT = 4 * 132  # programs of 256 threads and 64 registers, on an H100's multiprocessors
GAP_S, BYTES_PER_S = 2e-6, 3.35e12  # between two launches; an H100's memory
WIDTHS, ITEMSIZES, L2_MB = (2048, 1024), {"float32": 4, "bfloat16": 2}, (25, 40)
CLIP_CHUNKS = 65_536, 320  # elements of a chunk in torch's multi-tensor kernels, and chunks of a launch

Chunk = tuple[int, int]  # first block and blocks
Launch = tuple[list[Chunk], list[Chunk]]  # to scale and to measure, in the order of the programs


def transformer(parameters: float, width: int) -> list[int]:
    """Elements of the tensors of about that many parameters: an embedding, and as many layers as it takes."""
    embedding = 50_304 * width
    layer = [3 * width * width, width * width, 4 * width * width, 4 * width * width, width, width]
    return [embedding, *layer * max(1, round((parameters - embedding) / sum(layer)))]


def before(sizes: list[int], itemsize: int) -> list[Launch]:
    """The first version: chunks of 65,536, waves of 24 MiB in the model's order."""
    chunk, wave = 65_536, 24 << 20
    waves: list[list[int]] = []
    filled = 0
    for column, size in enumerate(sizes):
        if not waves or (filled and filled + size * itemsize > wave):
            waves.append([])
            filled = 0
        waves[-1].append(column)
        filled += size * itemsize
    starts = block_starts(sizes)
    chunks = [[each for column in wave for each in split(starts[column], sizes[column], chunk)] for wave in waves]
    return [(scaled[::-1], measured) for scaled, measured in pairwise([[], *chunks, []])]


def after(wave_bytes: int | None) -> Callable[[list[int], int], list[Launch]]:
    """As `plan` has it."""

    def planned(sizes: list[int], itemsize: int) -> list[Launch]:
        given = {} if wave_bytes is None else {"wave_bytes": wave_bytes}
        plan, starts = Plan(sizes, [0] * len(sizes), [itemsize], **given), block_starts(sizes)
        chunks: list[Chunk] = [(0, 0)] * len(plan.columns)
        for column, (first, size) in enumerate(zip(plan.first_chunks, sizes, strict=True)):
            parts = split(starts[column], size, plan.chunk_lengths[column])
            chunks[first : first + len(parts)] = parts
        return [
            (chunks[each.scale_first : each.scale_stop][::-1], chunks[each.measure_first : each.measure_stop])
            for each in plan.launches
        ]

    return planned


def block_starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + math.ceil(size / BLOCK))
    return starts


def split(start: int, size: int, chunk: int) -> list[Chunk]:
    blocks, step = math.ceil(size / BLOCK), chunk // BLOCK
    return [(start + at, min(step, blocks - at)) for at in range(0, blocks, step)]


def accesses(launch: Launch, *, backwards: bool) -> Iterator[tuple[int, bool]]:
    """Blocks in the order in which they are touched, and whether they are written."""
    scaled, measured = launch
    waiting = deque([(range(first + n - 1, first - 1, -1) if backwards else range(first, first + n), True)
                     for first, n in scaled] + [(range(first, first + n), False) for first, n in measured])  # fmt: skip
    running: list[tuple[Iterator[int], bool]] = []
    while waiting or running:
        while waiting and len(running) < RESIDENT:
            blocks, writes = waiting.popleft()
            running.append((iter(blocks), writes))
        left = []
        for program in running:
            block = next(program[0], None)
            if block is not None:
                yield block, program[1]
                left.append(program)
        running = left


def traffic(launches: list[Launch], l2_blocks: int, *, backwards: bool) -> int:
    """Blocks that are read from memory or written to it."""
    held: OrderedDict[int, None] = OrderedDict()
    moved = 0
    for launch in launches:
        for block, writes in accesses(launch, backwards=backwards):
            if block in held:
                held.move_to_end(block)
            else:
                moved += 1
                held[block] = None
                if len(held) > l2_blocks:
                    held.popitem(last=False)
            moved += writes
    return moved


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    options = parser.parse_args()
    orders = {"before": (before, False), "now": (after(None), True)}
    orders |= {f"now, waves of {mib} MiB": (after(mib << 20), True) for mib in (6, 24, 48)}
    figures = []
    for width in WIDTHS:
        sizes = transformer(options.parameters, width)
        clip_launches = 2 * math.ceil(sum(math.ceil(size / CLIP_CHUNKS[0]) for size in sizes) / CLIP_CHUNKS[1])
        for dtype, itemsize in ITEMSIZES.items():
            total = sum(sizes) * itemsize
            clip_s = 3 * total / BYTES_PER_S + clip_launches * GAP_S
            for l2_mb in L2_MB:
                again = sum(max(0, size * itemsize - l2_mb * 10**6) for size in sizes)
                line = {
                    "width": width,
                    "dtype": dtype,
                    "l2_mb": l2_mb,
                    "floor": round((2 * total + again) / total / 3, 3),
                }
                for name, (order, backwards) in orders.items():
                    launches = order(sizes, itemsize)
                    moved = (
                        traffic(launches, l2_mb * 10**6 // (BLOCK * itemsize), backwards=backwards) * BLOCK * itemsize
                    )
                    line[name] = {
                        "bytes to clip's": round(moved / total / 3, 3),
                        "launches": len(launches),
                        "time to clip's": round((moved / BYTES_PER_S + len(launches) * GAP_S) / clip_s, 3),
                    }
                print(json.dumps(line), flush=True)
                figures.append(line)
    if options.json:
        options.json.write_text(json.dumps({"clip_launches": clip_launches, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
