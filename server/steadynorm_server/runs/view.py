"""The rows at one moment: states, healths and visibilities, which follow from the time, and orders of runs."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from fnmatch import translate

import numpy as np
import numpy.typing as npt

from steadynorm_contract.lifecycle import Visibility
from steadynorm_contract.runs import Health, RunState
from steadynorm_server.runs.order import Order
from steadynorm_server.runs.rows import HEALTHS, STATES, Rows

VISIBILITIES = list(Visibility)
LISTED = VISIBILITIES.index(Visibility.LISTED)
_LONG_S = 86_400.0
"""A run that failed, or was lost, longer ago than this is not current."""
_FAILED = HEALTHS.index(Health.NONFINITE) + 1
"""Ranks of severity: live runs by their health, with this one between, then those silent for long, then ended ones."""
_OLD = len(HEALTHS) + 1
_ENDED = _OLD + 1

Mask = npt.NDArray[np.bool_]
Chosen = npt.NDArray[np.intp]
"""Places of rows, in an order."""
RunPlace = tuple[float | str, str]
"""A run's place in an order: by a value, then by its id."""


class View:
    """state, health, visibility: by row, places in the lists STATES, HEALTHS and VISIBILITIES."""

    def __init__(self, rows: Rows, order: Order, now: float, stalled_after_s: float) -> None:
        self.rows, self.now, self._order = rows, now, order
        self.last_seen = seen = rows.column("last_seen")
        self.live: Mask = rows.column("state") == STATES.index(RunState.RUNNING)
        heard = np.maximum(seen, rows.column("polls_until"))
        self.heard = np.where(self.live, heard, seen)
        self.silent: Mask = self.live & (now - seen > stalled_after_s)
        self.connected: Mask = ~self.silent | (now - heard <= stalled_after_s)
        self.state = np.where(self.silent, STATES.index(RunState.STALLED), rows.column("state"))
        calm, lost = HEALTHS.index(Health.CALM), HEALTHS.index(Health.DISCONNECTED)
        quiet = np.where(self.connected, HEALTHS.index(Health.STALLED), lost)
        self.health = np.where(self.silent & (rows.column("health") == calm), quiet, rows.column("health"))
        self.archived: Mask = rows.column("archived_at") >= self.heard
        self.deleted: Mask = rows.column("deleted_at") >= self.heard
        put_away = np.where(self.archived, VISIBILITIES.index(Visibility.ARCHIVED), 0)
        self.visibility = np.where(self.deleted, VISIBILITIES.index(Visibility.DELETED), put_away)
        failed = self.state == STATES.index(RunState.FAILED)
        self.failed_lately: Mask = failed & (now - seen <= _LONG_S)
        self.current: Mask = np.where(
            self.live, self.connected | (now - seen <= _LONG_S), self.failed_lately
        )  # a run that has been lost for longer is not live

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self, chosen: Sequence[int] | Chosen) -> list[str]:
        """The runs' ids."""
        return [self.rows.ids[at] for at in chosen]

    def named(self, pattern: str | None) -> Mask:
        """Which shown names match a pattern with * and ?."""
        return self._all() if pattern is None else _matching(self.rows.names, [pattern])

    def visible(self, patterns: tuple[str, ...] | None) -> Mask:
        """Which runs a token may read that is bound to registered names of these patterns."""
        return self._all() if patterns is None else _matching(self.rows.registered, patterns)

    def tagged(self, key: str, value: str | None = None) -> Mask:
        """Which runs have a tag, of this value unless it is None."""
        if value is None:
            return _mask([key in tags for tags in self.rows.tags])
        return _mask([tags.get(key) == value for tags in self.rows.tags])

    def holding(self, words: Sequence[str]) -> Mask:
        """Which runs have each of these words, in lower case, in their names, ids and tags."""
        found = self._all()
        for word in words:
            found &= _mask([word in text for text in self.rows.text])
        return found

    def _all(self) -> Mask:
        return np.ones(len(self), np.bool_)

    def by_severity(self, chosen: Chosen) -> Chosen:
        """Runs that need attention first, then the newest; never by what changes with every step."""
        started = self.rows.column("started")
        failed = self.state == STATES.index(RunState.FAILED)
        rank = self.health + (self.health >= _FAILED)
        rank = np.where(self.silent & (self.now - self.last_seen > _LONG_S), _OLD, rank)  # not above what happens now
        rank = np.where(self.live, rank, _ENDED + ~failed)
        rank = np.where(self.failed_lately, _FAILED, rank)
        newest = np.where(self.failed_lately, -self.last_seen, -started)  # the latest failure first
        keys = (-self._order.ids, -started, newest, rank)
        return chosen[np.lexsort(tuple(key[chosen] for key in keys))]

    def newest_first(self, chosen: Chosen) -> Chosen:
        """As they began."""
        return self.ascending(chosen, "started")[::-1]

    def ascending(self, chosen: Chosen, field: str, fold: bool = False) -> Chosen:
        """By a column or by the name, then by id. fold: names without regard to case."""
        if field == "name":
            names = self._order.folded if fold else self._order.names
            return chosen[np.argsort(names[chosen])]
        return chosen[np.lexsort((self._order.ids[chosen], self.rows.column(field)[chosen]))]

    def place(self, at: int, field: str) -> RunPlace:
        """A run's place in the order by this field."""
        value = self.rows.names[at] if field == "name" else self.rows.column(field)[at].item()
        return (value, self.rows.ids[at])

    def before(self, ascending: Chosen, field: str, limit: RunPlace) -> Chosen:
        """The part of an order that comes before a place in it."""
        return ascending[: bisect_left(ascending, limit, key=self._key(field))]

    def after(self, ascending: Chosen, field: str, limit: RunPlace) -> Chosen:
        """The part of an order that comes after a place in it."""
        return ascending[bisect_right(ascending, limit, key=self._key(field)) :]

    def _key(self, field: str) -> Callable[[int], RunPlace]:
        return lambda at: self.place(at, field)

    def frequent_tags(self, mask: Mask, limit: int) -> dict[str, int]:
        """The most frequent `key=value` of these runs; of equally frequent ones those of the newest runs."""
        tags = self._order.tags
        found, first, counts = np.unique(tags.codes[mask[tags.rows]], return_index=True, return_counts=True)
        most = np.lexsort((first, -counts))[:limit]
        return {tags.names[found[at]]: int(counts[at]) for at in most}


def _matching(names: Sequence[str], patterns: Sequence[str]) -> Mask:
    found = np.zeros(len(names), np.bool_)
    for pattern in patterns:
        matches = re.compile(translate(pattern)).match
        found |= _mask([matches(name) is not None for name in names])
    return found


def _mask(found: list[bool]) -> Mask:
    return np.array(found, np.bool_)
