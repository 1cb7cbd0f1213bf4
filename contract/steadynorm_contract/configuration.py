"""What a run was started with: the configuration that the user gives, and facts that its process finds by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

__all__ = [
    "HIDDEN",
    "MAX_CONFIG_BYTES",
    "MAX_CONFIG_DEPTH",
    "MAX_FACTS",
    "MAX_FACT_LENGTH",
    "RunConfiguration",
    "flattened",
    "is_secret",
    "is_too_deep",
]

MAX_CONFIG_BYTES = 64 * 1024
"""Of a configuration as JSON."""
MAX_CONFIG_DEPTH = 20
MAX_FACTS = 100
MAX_FACT_LENGTH = 1000

HIDDEN = "[hidden]"
"""In place of what may be a secret."""

_SECRET = re.compile(
    r"passw(or)?d|passphrase|secret|credential|(api|access|private|signing|encryption)[-_.]?key"
    r"|(^|[-_.])(auth|access|api|bearer|refresh|hf|wandb|github|session|login)[-_.]?token|^token$",
    re.IGNORECASE,
)


class RunConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """GET /runs/{run_id}/configuration: of the newest start. `environment`: git.commit, library.torch, command, ..."""

    config: dict[str, object] = {}
    environment: dict[str, str] = {}


def is_too_deep(config: Mapping[str, object]) -> bool:
    """Whether lists and objects lie in each other more than MAX_CONFIG_DEPTH deep."""
    level: list[Any] = [config]
    for _ in range(MAX_CONFIG_DEPTH + 1):
        inner = [each.values() if isinstance(each, Mapping) else each for each in level]
        level = [each for values in inner for each in values if isinstance(each, Mapping | list | tuple)]
        if not level:
            return False
    return True


def is_secret(name: str) -> bool:
    """Whether a value of this name may be a password, a key or a token of somebody."""
    return _SECRET.search(name) is not None


def flattened(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A nested configuration as pairs such as ("optimizer.lr", "0.001"), in its order."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flattened(inner, f"{prefix}.{name}" if prefix else str(name))
    elif (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and any(isinstance(each, Mapping | list | tuple) for each in value)
    ):
        for at, inner in enumerate(value):
            yield from flattened(inner, f"{prefix}.{at}" if prefix else str(at))
    else:
        yield prefix, value if isinstance(value, str) else msgspec.json.encode(value).decode()
