"""A test that is marked serial runs alone, and is not kept waiting by those that come after it."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.serial import turn

if TYPE_CHECKING:
    from tests.support.waiting import Eventually


def is_held(lock: Path) -> bool:
    """Whether somebody holds it alone."""
    try:
        with lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def test_a_serial_test_waits_for_the_others_and_runs_before_those_that_come_later(
    tmp_path: Path, eventually: Eventually
) -> None:
    order: list[str] = []

    def run(name: str, *, alone: bool) -> None:
        with turn(tmp_path, alone=alone):
            order.append(name)

    with turn(tmp_path, alone=False), turn(tmp_path, alone=False):
        serial = threading.Thread(target=run, args=("serial",), kwargs={"alone": True})
        serial.start()
        eventually(lambda: is_held(tmp_path / "gate"))
        later = threading.Thread(target=run, args=("later",), kwargs={"alone": False})
        later.start()
        assert order == []
    serial.join()
    later.join()
    assert order == ["serial", "later"]
