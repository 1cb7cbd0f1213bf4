"""Whether Redis has the memory that its runs may come to, and keeps what it was given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from steadynorm_server.redis.client import Memory
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.record import RunRecord

_MIB = 2**20
_KEEPS = ("noeviction", "unknown")


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of all primaries of a cluster together."""

    used_bytes: int
    max_bytes: int
    """0: unknown."""
    growth_bytes: int
    """What live runs may still add until each has come to its limit."""
    live_runs: int
    evicting_policy: str
    """A `maxmemory-policy` that removes runs when Redis is full; empty where none does."""
    fullest: float
    """Share of its memory that the fullest server takes; 0 where that is unknown."""

    @classmethod
    def of(cls, servers: Sequence[Memory], runs: Sequence[RunRecord], limits: Limits) -> Self:
        """servers: what each primary takes. runs: all of them."""
        live = [run for run in runs if run.is_live and run.archived_at is None and run.removes_at is None]
        growth = sum(max(0, int(limits.mib(run) * _MIB) - run.redis_bytes) for run in live)
        return cls.with_growth(servers, len(live), growth)

    @classmethod
    def with_growth(cls, servers: Sequence[Memory], live_runs: int, growth_bytes: int) -> Self:
        """servers: what each primary takes."""
        return cls(
            used_bytes=sum(each.used_bytes for each in servers),
            max_bytes=sum(each.max_bytes for each in servers) if all(each.max_bytes for each in servers) else 0,
            growth_bytes=growth_bytes,
            live_runs=live_runs,
            evicting_policy=next((each.policy for each in servers if each.policy not in _KEEPS), ""),
            fullest=max((each.used_bytes / each.max_bytes for each in servers if each.max_bytes), default=0.0),
        )

    @property
    def shortfall_bytes(self) -> int:
        """By how much the runs may outgrow Redis."""
        return max(0, self.used_bytes + self.growth_bytes - self.max_bytes) if self.max_bytes else 0

    def findings(self) -> list[str]:
        """One line for each thing that is wrong, with what to do."""
        found = []
        if self.evicting_policy:
            found.append(
                f"Redis removes runs when it is full: its maxmemory-policy is {self.evicting_policy}. "
                "Set `maxmemory-policy noeviction`."
            )
        if self.shortfall_bytes:
            found.append(
                f"Redis is too small for its runs: it takes {_gib(self.used_bytes)} of {_gib(self.max_bytes)}, and the "
                f"{self.live_runs} live runs may add {_gib(self.growth_bytes)} until they come to their limits. Give "
                "it more memory, lower STEADYNORM_RUN_MIB, or set STEADYNORM_RETENTION_DAYS."
            )
        return found


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
