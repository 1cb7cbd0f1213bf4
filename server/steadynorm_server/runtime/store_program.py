"""Which program wrote the embedded Redis' log: not every one reads another's, and says so by advising to destroy it.

Redis 7.0 on a log of Valkey 9 ends with "Bad file format … redis-check-aof --fix", which cuts off what it cannot read.
"""

import contextlib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

_FILE = "program.json"
_LAST_SHARED = (7, 2)
"""Redis' last version whose files Valkey promises to read."""


class StoreProgram(NamedTuple):
    """A program and its version."""

    name: str
    version: str

    @classmethod
    def of(cls, binary: Path) -> Self | None:
        """What this binary is; None if it does not say."""
        try:
            said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
        found = re.search(r"(Valkey|Redis) server v=([0-9.]+)", said)
        return cls(found[1], found[2]) if found else None

    @classmethod
    def of_info(cls, info: Mapping[str, Any]) -> Self:
        """info: the section `server` of INFO."""
        if "valkey_version" in info:
            return cls("Valkey", str(info["valkey_version"]))
        return cls("Redis", str(info["redis_version"]))

    def reads(self, writer: "StoreProgram") -> bool:
        """Whether it reads what `writer` wrote: the same program of the same version or a later one, or its heir."""
        if self.name == writer.name:
            return _number(self) >= _number(writer)
        return self.name == "Valkey" and _number(writer) <= _LAST_SHARED

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def writer_of(folder: Path) -> StoreProgram | None:
    """Who wrote the log in this folder; None where that is not known, or there is none."""
    if not ((folder / "appendonlydir").exists() or (folder / "appendonly.aof").exists()):
        return None
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return StoreProgram(**msgspec.json.decode((folder / _FILE).read_bytes(), type=dict[str, str]))
    return None


def remember(folder: Path, program: StoreProgram) -> None:
    """Note who writes the log from now on."""
    if writer_of(folder) != program:
        draft = folder / f"{_FILE}.draft"
        with contextlib.suppress(OSError):  # a full disk: Redis itself says so when it matters
            draft.write_bytes(msgspec.json.encode(program._asdict()))
            draft.replace(folder / _FILE)


def _number(program: StoreProgram) -> tuple[int, ...]:
    """Versions differ in their files by the first two numbers."""
    return tuple(int(part) for part in program.version.split(".")[:2])
