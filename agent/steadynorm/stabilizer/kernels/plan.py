"""Which parts of which gradients a launch measures and scales. Decides nothing but the order, and imports no Triton.

A tensor is split into chunks, one a program. Each dtype's tensors are measured and scaled in waves, small tensors
first: one launch scales a wave while it measures the next, so that a gradient is scaled out of L2. Or all are measured
before any is scaled. See docs/decisions/0004.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

BLOCK = 1 << 12
"""Elements per iteration of a program's loop: 16 a thread, four 16-byte loads in flight each for float32."""
SHORTEST_CHUNK = 2 * BLOCK
"""In elements. Short, so that a large tensor has many more chunks than a GPU runs programs at a time: only then does
their order decide what is still in L2."""
MOST_CHUNKS = 1024
"""Of a tensor: each program that scales it adds up a partial sum of each, and so many in one turn."""
WAVE_BYTES = 24 * 1024 * 1024
"""How much is measured before it is scaled: about half of the L2 of an H100 or H200. Smaller waves find a little more
there and cost more launches: benchmarks/gpu_l2_model.py reckons both, gpu_step.py measures."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Of the dtype with this index: chunks to scale and chunks to measure, each first..stop - 1."""

    dtype: int
    scale_first: int
    scale_stop: int
    measure_first: int
    measure_stop: int

    @property
    def programs(self) -> int:
        """One for each chunk."""
        return self.scale_stop - self.scale_first + self.measure_stop - self.measure_first


@dataclass(frozen=True, slots=True)
class Plan:
    """Chunks and launches of P tensors. sizes: elements of each; dtypes: its index among those that launches are for.

    itemsizes: bytes an element, by dtype. wave_bytes: None for two launches a dtype however large its tensors are.
    launches: those of a step in waves. measuring, scaling: those of a step that measures everything first.
    """

    sizes: list[int]
    dtypes: list[int]
    itemsizes: list[int]
    wave_bytes: int | None = WAVE_BYTES
    chunk_lengths: list[int] = field(init=False)  # [P], in elements
    chunk_counts: list[int] = field(init=False)  # [P]; a tensor without elements has one chunk too
    first_chunks: list[int] = field(init=False)  # [P]
    columns: list[int] = field(init=False)  # [chunks]: whose it is
    launches: list[Launch] = field(init=False)
    measuring: list[Launch] = field(init=False)
    scaling: list[Launch] = field(init=False)

    def __post_init__(self) -> None:
        put = object.__setattr__  # the class is frozen for others
        put(self, "chunk_lengths", [chunk_length(size) for size in self.sizes])
        pairs = zip(self.sizes, self.chunk_lengths, strict=True)
        put(self, "chunk_counts", [max(1, -(-size // length)) for size, length in pairs])
        # Chunks are in the order of the launches, whose programs have consecutive ones.
        order = sorted(range(len(self.sizes)), key=lambda column: (self.dtypes[column], self.sizes[column]))
        starts = accumulate((self.chunk_counts[column] for column in order), initial=0)
        first = dict(zip(order, starts, strict=False))
        put(self, "first_chunks", [first[column] for column in range(len(order))])
        put(self, "columns", [column for column in order for _ in range(self.chunk_counts[column])])
        waves: list[Launch] = []
        whole: list[Launch] = []
        for dtype in sorted(set(self.dtypes)):
            of_dtype = [column for column in order if self.dtypes[column] == dtype]
            waves += self._launches(dtype, of_dtype, self.wave_bytes)
            whole += self._launches(dtype, of_dtype, None)
        put(self, "launches", waves)
        put(self, "measuring", whole[::2])
        put(self, "scaling", whole[1::2])

    def _launches(self, dtype: int, order: list[int], wave_bytes: int | None) -> list[Launch]:
        """One more than there are waves. A wave holds one tensor at least."""
        bounds, filled = [self.first_chunks[order[0]]], 0
        for column in order:
            size = self.sizes[column] * self.itemsizes[dtype]
            if wave_bytes is not None and filled and filled + size > wave_bytes:
                bounds.append(self.first_chunks[column])
                filled = 0
            filled += size
        bounds.append(self.first_chunks[order[-1]] + self.chunk_counts[order[-1]])
        edges = [bounds[0], *bounds, bounds[-1]]
        return [Launch(dtype, *edges[at : at + 2], *edges[at + 1 : at + 3]) for at in range(len(bounds))]


def chunk_length(size: int) -> int:
    """Elements of a chunk of a tensor of `size` elements: whole blocks."""
    return max(SHORTEST_CHUNK, -(-size // MOST_CHUNKS // BLOCK) * BLOCK)
