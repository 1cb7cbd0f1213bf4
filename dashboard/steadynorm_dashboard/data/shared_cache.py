"""Answers that all visitors of this process share for a moment, so that ten who watch one run cost one read."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar, cast

_T = TypeVar("_T")


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    answer: object = None
    error: Exception | None = None  # of the last request, if it failed
    requests: int = 0
    read_at: float = float("-inf")


class SharedCache:
    """The newest answer for each key, for `fresh_s` seconds; at most `limit` answers, the least recently used go first.

    Whoever asks during a request waits for it and shares its answer or its error. Whoever asks later starts a new one.
    """

    def __init__(self, fresh_s: float = 0.7, limit: int = 64, clock: Callable[[], float] = time.monotonic) -> None:
        self._fresh_s, self._limit, self._clock = fresh_s, limit, clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def read(self, key: Hashable, request: Callable[[], _T]) -> _T:
        """The answer of `request`, or another visitor's. Raises what the request raised.

        key: identifies the server, the token and the whole request.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._limit:
                self._entries.popitem(last=False)
            requests = entry.requests
        with entry.lock:
            if entry.requests > requests and entry.error is not None:
                raise entry.error  # ten who waited would otherwise wait again, one after the other
            if self._clock() - entry.read_at >= self._fresh_s:
                entry.error = None
                try:
                    entry.answer = request()
                    entry.read_at = self._clock()
                except Exception as error:
                    entry.error = error
                    raise
                finally:
                    entry.requests += 1
            return cast("_T", entry.answer)


shared_cache = SharedCache()
"""The one of this process."""
