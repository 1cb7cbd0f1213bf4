"""TODO"""

from __future__ import annotations

import msgspec

__all__ = ["TokenInfo"]


class TokenInfo(msgspec.Struct, frozen=True):
    """GET /me: whose token this is. `roles`: agent, viewer, operator. `runs`: patterns of run names; null: all."""

    name: str
    roles: list[str]
    runs: list[str] | None = None
