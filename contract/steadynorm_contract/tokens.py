"""Tokens: who the bearer is and what it may do."""

from __future__ import annotations

import msgspec

__all__ = ["TokenInfo"]


class TokenInfo(msgspec.Struct, frozen=True):
    """GET /me. `roles`: agent, viewer, operator. `runs`: patterns of run names that it is valid for; null: all."""

    name: str
    roles: list[str]
    runs: list[str] | None = None
