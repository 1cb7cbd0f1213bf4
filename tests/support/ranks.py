"""Processes of a training with several ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

PROGRAMS = Path(__file__).parents[1] / "agent" / "distributed"


class RunRanks(Protocol):
    """Type of the fixture `ranks`."""

    def __call__(self, world: int, scenario: str, **arguments: object) -> list[dict[str, Any]]: ...


@dataclass
class StartedRanks:
    """The processes of one scenario, behind the one that forks them, whose death ends them too."""

    folder: Path
    world: int
    process: subprocess.Popen[bytes]

    def results(self, within_s: float = 120.0) -> list[dict[str, Any]]:
        """What each rank returned, in the order of ranks. Fails with the ranks' output if one fails or hangs."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the ranks hang:\n{self.output()}")
        finally:
            self.end()
        assert self.process.returncode == 0, self.output()
        return [json.loads((self.folder / f"{rank}.json").read_text()) for rank in range(self.world)]

    def output(self) -> str:
        """What all ranks have printed."""
        return (self.folder / "log").read_text()

    def end(self) -> None:
        self.process.kill()  # does nothing to one that has ended
        self.process.wait()


def start_ranks(folder: Path, world: int, scenario: str, program: str, arguments: dict[str, object]) -> StartedRanks:
    """Start a scenario of a program in tests/agent/distributed, which leaves its results in `folder`."""
    folder.mkdir()
    command = [sys.executable, str(PROGRAMS / program), scenario, str(world), str(folder), json.dumps(arguments)]
    with (folder / "log").open("wb") as log:
        return StartedRanks(folder, world, subprocess.Popen(command, stdout=log, stderr=log))
