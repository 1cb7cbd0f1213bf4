"""Orders of rows by texts, and their tags: worked out once for many answers, since they seldom change."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from steadynorm_server.runs.rows import Column, Rows


class Tags(NamedTuple):
    """All tags of all runs, those of the newest run first."""

    rows: Column  # whose each is
    codes: Column  # which one: its place in `names`
    names: list[str]  # `key=value`


class Order:
    """Holds while `layout` is that of the rows."""

    def __init__(self, rows: Rows) -> None:
        self.layout, self._rows = rows.layout, rows

    @functools.cached_property
    def ids(self) -> Column:
        """Ranks by id."""
        return _ranks(self._rows.ids)

    @functools.cached_property
    def names(self) -> Column:
        """Ranks by shown name, then id."""
        return _ranks(list(zip(self._rows.names, self._rows.ids, strict=True)))

    @functools.cached_property
    def folded(self) -> Column:
        """Ranks by shown name in lower case, then id."""
        return _ranks([(name.lower(), run_id) for name, run_id in zip(self._rows.names, self._rows.ids, strict=True)])

    @functools.cached_property
    def tags(self) -> Tags:
        """The tags, from the newest run on."""
        newest = np.lexsort((self.ids, self._rows.column("started")))[::-1]
        codes: dict[str, int] = {}
        rows: list[int] = []
        found: list[int] = []
        for at in newest.tolist():
            for key, value in self._rows.tags[at].items():
                rows.append(at)
                found.append(codes.setdefault(f"{key}={value}", len(codes)))
        return Tags(np.array(rows, np.intp), np.array(found, np.intp), list(codes))


def _ranks(keys: Sequence[str] | Sequence[tuple[str, str]]) -> Column:
    ranks = np.empty(len(keys), np.intp)
    ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return ranks
