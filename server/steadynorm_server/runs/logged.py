"""The scalars that a run's loop logs under names of its own: which there are, their newest values, and their history.

Stored in the hash's field `scalars`. A name's column in the history is its place in `columns`, which only grows.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from steadynorm_contract.scalars import (
    MAX_SCALARS,
    NONFINITE_PREFIX,
    ScalarDescription,
    ScalarRecords,
    ScalarView,
)
from steadynorm_server.timeseries.blocks import Block

Matrix = NDArray[np.float32]


class LoggedScalars(msgspec.Struct):
    """What is known of them.

    columns: names, and `nonfinite/NAME` of those that ever were NaN or infinite, in the order in which they came.
    latest: the newest value of each column, null where it was not finite; steps: its step. omitted: values of names
    beyond MAX_SCALARS.
    """

    columns: list[str] = []
    described: dict[str, ScalarDescription] = {}
    latest: list[float | None] = []
    steps: list[int | None] = []
    nonfinite: dict[str, int] = {}
    omitted: int = 0

    @property
    def places(self) -> dict[str, int]:
        """Column by name."""
        return {name: at for at, name in enumerate(self.columns)}

    def names(self) -> list[str]:
        """Logged or described, in the order in which they came."""
        logged = [name for name in self.columns if not name.startswith(NONFINITE_PREFIX)]
        return [*logged, *(name for name in self.described if name not in self.columns)]

    def newest(self, names: Sequence[str]) -> dict[str, float | None]:
        """The newest values of those of the names that were logged."""
        places = self.places
        return {name: self.latest[places[name]] for name in names if name in places}

    def views(self) -> list[ScalarView]:
        """For the API."""
        places, views = self.places, []
        for name in self.names():
            about, at = self.described.get(name, ScalarDescription()), places.get(name)
            value, step = (None, None) if at is None else (self.latest[at], self.steps[at])
            views.append(
                ScalarView(
                    name=name,
                    unit=about.unit,
                    sentence=about.sentence,
                    value=value,
                    step=step,
                    nonfinite=self.nonfinite.get(name, 0),
                )
            )
        return views

    def describe(self, described: Mapping[str, ScalarDescription]) -> None:
        """Take over what an agent says of its scalars."""
        known = set(self.names())
        for name, about in described.items():
            if name in known or len(known) < MAX_SCALARS:
                known.add(name)
                self.described[name] = about

    def add(self, groups: Sequence[ScalarRecords]) -> Block | None:
        """Take over a batch's records. Returns them as one raw block, a record a step; None where there are none."""
        flagged = self._admit(groups)
        width, total = len(self.columns), sum(len(group.steps) for group in groups)
        values = np.full((total, width), np.nan, np.float32)  # with infinities
        steps, times = np.zeros(total, np.int64), np.zeros(total, np.float64)
        places, start = self.places, 0
        for group in groups:
            rows = slice(start, start + len(group.steps))
            start = rows.stop
            steps[rows], times[rows] = group.steps, np.frombuffer(group.times, "<f8")
            data = np.frombuffer(group.data, "<f4").reshape(len(group.steps), len(group.names))
            known = [at for at, name in enumerate(group.names) if name in places]
            values[rows, [places[group.names[at]] for at in known]] = data[:, known]
            self.omitted += int((~np.isnan(data)).sum()) - int((~np.isnan(data[:, known])).sum())
        if len(groups) > 1:
            order = np.argsort(times, kind="stable")
            values, steps, times = values[order], steps[order], times[order]
        firsts = np.flatnonzero(np.diff(steps, prepend=steps[:1] - 1)) if total else steps
        if len(firsts) < total:
            values = _merged(values, firsts)
            steps, times = steps[firsts], times[firsts]
        for name, (of, flag) in flagged.items():
            column = values[:, of]
            infinite = np.isinf(column)
            values[:, flag] = np.where(np.isnan(column), np.float32(np.nan), infinite)
            if number := int(infinite.sum()):
                self.nonfinite[name] = self.nonfinite.get(name, 0) + number
        self._note_latest(values, steps)
        if flagged:
            values[np.isinf(values)] = np.nan
        if not len(values):
            return None
        return Block.raw(width, array("q", steps.tobytes()), array("d", times.tobytes()), array("f", values.tobytes()))

    def _admit(self, groups: Sequence[ScalarRecords]) -> dict[str, tuple[int, int]]:
        """Add columns for new names. Returns the columns of each name that has a flag, and of the flag."""
        known = set(self.columns)
        count = len(self.names())
        for group in groups:
            for name in group.names:
                if name not in known and (name in self.described or count < MAX_SCALARS):
                    count += name not in self.described
                    self._append(name, known)
        for group in groups:
            infinite = np.isinf(np.frombuffer(group.data, "<f4").reshape(-1, len(group.names)))
            if infinite.any():
                for at in np.flatnonzero(infinite.any(axis=0)):
                    name, flag = group.names[at], NONFINITE_PREFIX + group.names[at]
                    if name in known and flag not in known:
                        self._append(flag, known)
        places = self.places
        flags = [name for name in self.columns if name.startswith(NONFINITE_PREFIX)]
        return {flag.removeprefix(NONFINITE_PREFIX): (places[flag.removeprefix(NONFINITE_PREFIX)], places[flag])
                for flag in flags}  # fmt: skip

    def _append(self, name: str, known: set[str]) -> None:
        self.columns.append(name)
        self.latest.append(None)
        self.steps.append(None)
        known.add(name)

    def _note_latest(self, values: Matrix, steps: NDArray[np.int64]) -> None:
        if not len(values):
            return
        logged = ~np.isnan(values)
        last = len(values) - 1 - np.argmax(logged[::-1], axis=0)
        newest, moments = values[last, np.arange(values.shape[1])].tolist(), steps[last].tolist()
        for at in np.flatnonzero(logged.any(axis=0)).tolist():
            self.latest[at] = newest[at] if math.isfinite(newest[at]) else None
            self.steps[at] = moments[at]


def _merged(values: Matrix, firsts: NDArray[np.intp]) -> Matrix:
    """Records of one step as one: of a name that is in several of them, the last value."""
    merged = values[firsts].copy()
    for at, (first, stop) in enumerate(zip(firsts, [*firsts[1:], len(values)], strict=True)):
        for row in range(first + 1, stop):
            merged[at] = np.where(np.isnan(values[row]), merged[at], values[row])
    return merged


def column(block: Block, logged: LoggedScalars, name: str) -> tuple[list[int], list[float], list[float]]:
    """Steps in which `name` was logged, its values there (NaN: not finite), and whether it was not: 1, else 0."""
    places = logged.places
    if name not in places:
        return [], [], []
    table = np.frombuffer(block.mean, np.float32).reshape(-1, block.width)
    values, flag = table[:, places[name]], places.get(NONFINITE_PREFIX + name)
    bad = np.zeros(len(values), np.float32) if flag is None else table[:, flag] == 1
    at = np.flatnonzero(~np.isnan(values) | (bad > 0))
    return np.frombuffer(block.steps, np.int64)[at].tolist(), values[at].tolist(), bad[at].astype(float).tolist()
