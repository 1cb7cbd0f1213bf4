"""Groups parameters into rows of a heat map, in model order: one each where they fit, else neighbors of one block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

MAX_ROWS = 60
"""Rows that can be distinguished on one screen."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One row: its name, which is not escaped, and the indices of its members in the parameter table."""

    name: str
    members: range


def block_of(name: str) -> str:
    """`blocks.3` of `blocks.3.attention.weight`: the name up to its first number; the first word where it has none."""
    parts = name.split(".")
    numbered = next((at for at, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: numbered + 1])


def blocks(names: Sequence[str]) -> list[Layer]:
    """Consecutive parameters of one block."""
    return _grouped(names, block_of)


def layers(names: Sequence[str], limit: int = MAX_ROWS) -> list[Layer]:
    """At most `limit` rows for all of `names`, split as deep into the dotted names as possible."""
    if len(names) <= limit:
        return [Layer(name, range(at, at + 1)) for at, name in enumerate(names)]
    deepest = max(name.count(".") for name in names)
    for depth in range(deepest, 0, -1):
        found = _grouped(names, lambda name, depth=depth: ".".join(name.split(".")[:depth]))  # type: ignore[misc]  # bound now
        if len(found) <= limit:
            # Few rows mean that the first parts of the names are all the same, which says nothing.
            return found if len(found) > limit // 10 else _chunks(names, limit)
    return _chunks(names, limit)


def _grouped(names: Sequence[str], key: Callable[[str], str]) -> list[Layer]:
    found, start = [], 0
    for name, members in groupby(names, key):
        stop = start + sum(1 for _ in members)
        found.append(Layer(name if stop - start > 1 else names[start], range(start, stop)))
        start = stop
    return found


def _chunks(names: Sequence[str], limit: int) -> list[Layer]:
    size = -(-len(names) // limit)
    return [
        Layer(names[start] + (" …" if size > 1 else ""), range(start, min(start + size, len(names))))
        for start in range(0, len(names), size)
    ]


def worst_rows(
    rows: Sequence[Layer], extreme: Sequence[Sequence[float | None]]
) -> tuple[list[list[float | None]], list[list[int]]]:
    """Per row and bucket the largest value of its members, and the index of that member (the first if all are None)."""
    values: list[list[float | None]] = []
    holders: list[list[int]] = []
    for row in rows:
        if len(row.members) == 1:
            values.append(list(extreme[row.members.start]))
            holders.append([row.members.start] * len(extreme[row.members.start]))
            continue
        worst = [
            max(((value, at) for value, at in zip(cells, row.members, strict=True) if value is not None), default=None)
            for cells in zip(*(extreme[at] for at in row.members), strict=True)
        ]
        values.append([None if one is None else one[0] for one in worst])
        holders.append([row.members.start if one is None else one[1] for one in worst])
    return values, holders
