"""Tokens: who the bearer is and what it may do."""

import msgspec

__all__ = ["Quota", "TokenInfo"]


class Quota(msgspec.Struct, frozen=True):
    """What an agent's token may have in Redis, and has. null: any; of what it has: Redis does not answer."""

    max_runs: int | None
    max_mib: float | None
    runs: int | None
    mib: float | None


class TokenInfo(msgspec.Struct, frozen=True):
    """GET /me. `roles`: agent, viewer, operator. `runs`: patterns of run names that it is valid for; null: all.

    `quota`: only of a token that has one.
    """

    name: str
    roles: list[str]
    runs: list[str] | None = None
    quota: Quota | msgspec.UnsetType = msgspec.UNSET
