"""Ports that are requested, in use, or free."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from steadynorm_cli.errors import CommandError
from steadynorm_cli.ports import choose_port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_default_port_that_is_taken_gives_way_and_says_so(taken: int) -> None:
    said: list[str] = []
    port = choose_port("127.0.0.1", None, taken, said.append)
    assert port != taken
    assert said == [f"port {taken} is in use by another program: using {port}"]


def test_a_port_that_was_asked_for_must_be_free(taken: int) -> None:
    with pytest.raises(CommandError, match=f"port {taken} on 127.0.0.1 is in use"):
        choose_port("127.0.0.1", taken, 1, lambda _: None)


def test_a_free_default_is_taken_without_a_word(taken: int) -> None:
    del taken
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    said: list[str] = []
    assert choose_port("127.0.0.1", None, free, said.append) == free
    assert choose_port("127.0.0.1", None, free, said.append, taken=free) != free
    assert len(said) == 1
