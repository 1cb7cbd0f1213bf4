"""A bounded cache that evicts what was used least recently."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """Values by key, bounded by the sum of their sizes; by their number unless `size` is given."""

    def __init__(self, max_size: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self._max_size, self._size = max_size, size
        self._total = 0
        self._values: OrderedDict[str, Value] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Value | None:
        """The value, which counts as used now."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def pop(self, key: str) -> Value | None:
        """Remove and return the value."""
        if (value := self._values.pop(key, None)) is not None:
            self._total -= self._size(value)
        return value

    def put(self, key: str, value: Value) -> None:
        """Store a value, and evict others until all fit."""
        self.pop(key)
        self._values[key] = value
        self._total += self._size(value)
        while self._total > self._max_size:
            self.pop(next(iter(self._values)))
