"""Processes of a training with several ranks, as each test's scenario wants them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest


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


@pytest.fixture
def start_ranks(tmp_path: Path) -> Iterator[Callable[..., StartedRanks]]:
    """start_ranks(world, scenario, **arguments): starts a scenario of `program`; ended with the test."""
    started: list[StartedRanks] = []

    def start(world: int, scenario: str, *, program: str = "distributed.py", **arguments: object) -> StartedRanks:
        folder = tmp_path / f"ranks{len(started)}"
        folder.mkdir()
        command = [sys.executable, str(Path(__file__).parent / program), scenario]
        with (folder / "log").open("wb") as log:
            given = [str(world), str(folder), json.dumps(arguments)]
            process = subprocess.Popen([*command, *given], stdout=log, stderr=log)
        started.append(StartedRanks(folder, world, process))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def ranks(start_ranks: Callable[..., StartedRanks]) -> RunRanks:
    """ranks(world, scenario, **arguments): what each rank returned."""
    return lambda world, scenario, **arguments: start_ranks(world, scenario, **arguments).results()
