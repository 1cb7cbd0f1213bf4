"""What Redis' memory is like, as the last sweep saw it: every process that sweeps exports the same."""

import math

from prometheus_client import CollectorRegistry, Gauge

from steadynorm_server.retention.capacity import Capacity


class StoreMetrics:
    """Gauges; NaN, which no alert compares to anything, until Redis has told."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            made = Gauge(f"steadynorm_store_{name}", text, registry=registry, multiprocess_mode="livemostrecent")
            made.set(math.nan)
            return made

        self._used = gauge("memory_bytes", "Memory that Redis uses; of a cluster: all primaries.")
        self._max = gauge("memory_max_bytes", "Memory that Redis may use: its maxmemory, else its machine's.")
        self._fullest = gauge("memory_ratio", "Share of its memory that Redis uses; of a cluster: its fullest primary.")
        self._shortfall = gauge("shortfall_bytes", "Memory by which live runs may outgrow Redis within their limits.")
        self._evicts = gauge("evicts", "1 where Redis removes runs when it is full, by its maxmemory-policy; else 0.")

    def set(self, capacity: Capacity | None) -> None:
        """None: Redis' access list forbids to ask, and what it told before may be true no longer."""
        if capacity is None:
            for each in (self._used, self._max, self._fullest, self._shortfall, self._evicts):
                each.set(math.nan)
            return
        self._used.set(capacity.used_bytes)
        self._evicts.set(float(bool(capacity.evicting_policy)))
        known = bool(capacity.max_bytes)
        self._max.set(capacity.max_bytes if known else math.nan)
        self._fullest.set(capacity.fullest if known else math.nan)
        self._shortfall.set(capacity.shortfall_bytes if known else math.nan)
