"""What visitors of one process read together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from steadynorm_contract.client import Client, ServerUnreachable
from steadynorm_dashboard.data import queries
from steadynorm_dashboard.data.availability import CircuitBreaker

if TYPE_CHECKING:
    from tests.support.waiting import Eventually

WHO = ("http://127.0.0.1:9", "token")


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    queries._shared.clear()
    yield
    queries._shared.clear()


def read(ask: Callable[[], object], key: str = "run", who: tuple[str, str] = WHO) -> object:
    return queries._shared(who, key, "newest", ask)


def at_once(first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """The outcomes of two visitors, of whom the second asks while the first waits for the server."""
    asking, may_answer = threading.Event(), threading.Event()
    outcomes: list[object] = []

    def slow() -> object:
        asking.set()
        assert may_answer.wait(10)
        return first()

    def visit(ask: Callable[[], object]) -> None:
        try:
            outcomes.append(read(ask))
        except ServerUnreachable as error:
            outcomes.append(error)

    visitors = [threading.Thread(target=visit, args=(ask,)) for ask in (slow, second)]
    visitors[0].start()
    assert asking.wait(10)
    visitors[1].start()
    visitors[1].join(0.3)
    assert visitors[1].is_alive()  # it waits
    may_answer.set()
    for visitor in visitors:
        visitor.join(10)
    return outcomes


def test_within_a_moment_two_visitors_cost_one_read_and_later_another_one(eventually: Eventually) -> None:
    asked = iter(range(1000))
    assert [read(lambda: next(asked)) for _ in range(3)] == [0, 0, 0]
    assert read(lambda: next(asked), "another question") == 1
    assert read(lambda: next(asked), who=("http://127.0.0.1:9", "another token")) == 2
    assert eventually(lambda: read(lambda: next(asked)), within_s=10) == 3


def test_who_asks_meanwhile_waits_for_the_answer_that_is_on_its_way() -> None:
    answers = at_once(lambda: "the first one's", lambda: "a second one")
    assert answers == ["the first one's"] * 2


def test_who_waited_shares_the_error_instead_of_waiting_once_more() -> None:
    breaker, client = CircuitBreaker(), Client(WHO[0], "token")
    asked: list[Client] = []
    first, second = at_once(partial(breaker.call, client, Client.me), partial(breaker.call, client, asked.append))
    assert isinstance(first, ServerUnreachable)
    assert second is first
    assert not asked


def test_an_error_is_not_kept_for_who_asks_later() -> None:
    def fails() -> str:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        read(fails)
    assert read(lambda: "back") == "back"


def test_answers_that_nobody_asked_for_lately_are_dropped() -> None:
    for key in range(65):
        read(lambda key=key: key, str(key))  # type: ignore[misc]  # bound now
    assert read(lambda: "anew", "64") == 64
    assert read(lambda: "anew", "0") == "anew"
