"""Answers that all visitors of this process share for a moment, so that ten who watch one run cost one read."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar, cast

__all__ = ["SharedReads"]

_T = TypeVar("_T")


@dataclass(slots=True)
class _Place:
    lock: threading.Lock = field(default_factory=threading.Lock)
    answer: object = None
    error: Exception | None = None  # of the last try, if it failed
    tries: int = 0
    read_at: float = float("-inf")


class SharedReads:
    """read(key, ask): the answer of `ask`, or the one that another visitor's gave less than `fresh_s` ago.

    key: must name the server, the token and all of the question. Who asks while somebody else does waits for that
    answer, and shares its error. Who asks later asks anew. At most `limit` answers are kept.
    """

    def __init__(self, fresh_s: float = 0.7, limit: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh_s, self._limit, self._clock = fresh_s, limit, clock
        self._lock = threading.Lock()
        self._places: OrderedDict[Hashable, _Place] = OrderedDict()

    def read(self, key: Hashable, ask: Callable[[], _T]) -> _T:
        """The answer. Raises what `ask` raises."""
        with self._lock:
            place = self._places.setdefault(key, _Place())
            self._places.move_to_end(key)
            while len(self._places) > self._limit:
                self._places.popitem(last=False)
            tries = place.tries
        with place.lock:
            if place.tries > tries and place.error is not None:
                raise place.error  # ten who waited would else wait once more, one after the other
            if self._clock() - place.read_at >= self._fresh_s:
                place.error = None
                try:
                    place.answer = ask()
                    place.read_at = self._clock()
                except Exception as error:
                    place.error = error
                    raise
                finally:
                    place.tries += 1
            return cast("_T", place.answer)
