"""Waiting for what another thread or process does, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest

T = TypeVar("T")


class Eventually(Protocol):
    """Type of the fixture `eventually`."""

    def __call__(self, look: Callable[[], T], *, within_s: float = 60.0) -> T: ...


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """eventually(look) -> the first true value of look(), which is asked again and again. Fails after `within_s`."""

    def wait(look: Callable[[], T], *, within_s: float = 60.0) -> T:
        deadline = time.monotonic() + within_s
        while not (value := look()):
            assert time.monotonic() < deadline, f"still {value!r} after {within_s:g} s"
            time.sleep(0.05)
        return value

    return wait
