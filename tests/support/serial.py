"""Tests that run while no other test does: what they hold to a time is theirs, and not that of a busy neighbour.

`@pytest.mark.serial` marks them. The processes of pytest-xdist share two locks: every test holds the room, a serial one
alone. Who waits for the room holds the gate, so that nobody enters before them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """The block runs beside those of others, or alone. folder: shared by all of them."""
    with (folder / "gate").open("ab") as gate, (folder / "room").open("ab") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # a process that the test forked may still have it open


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """One test and its fixtures."""
    if not hasattr(item.config, "workerinput"):  # there is no other process
        return (yield)
    folder = Path(item.config.option.basetemp).parent
    with turn(folder, alone=item.get_closest_marker("serial") is not None):
        return (yield)
