"""Answers that the visitors of one process share."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from steadynorm_dashboard.data.shared_cache import SharedCache


class Clock:
    """Advances only when a test sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class AnnouncingLock:
    """A lock that sets an event when a thread is about to wait for it."""

    def __init__(self, lock: threading.Lock, waits: threading.Event) -> None:
        self._lock, self._waits = lock, waits

    def __enter__(self) -> None:
        self._waits.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_within_a_moment_two_visitors_cost_one_read_and_later_another_one() -> None:
    clock, asked = Clock(), iter(range(10))
    shared = SharedCache(fresh_s=0.7, clock=clock)
    assert [shared.read("run", lambda: next(asked)) for _ in range(3)] == [0, 0, 0]
    assert shared.read("another question", lambda: next(asked)) == 1
    clock.now = 0.7
    assert shared.read("run", lambda: next(asked)) == 2


def test_a_visitor_who_asks_during_a_request_waits_for_its_answer() -> None:
    shared = SharedCache(clock=Clock())
    asking, may_answer, waits = threading.Event(), threading.Event(), threading.Event()
    answers: list[str] = []

    def slow() -> str:
        asking.set()
        assert may_answer.wait(10)
        return "the first one's"

    first = threading.Thread(target=lambda: answers.append(shared.read("run", slow)))
    second = threading.Thread(target=lambda: answers.append(shared.read("run", lambda: "a second one")))
    first.start()
    assert asking.wait(10)
    shared._entries["run"].lock = AnnouncingLock(shared._entries["run"].lock, waits)  # type: ignore[assignment]
    second.start()
    assert waits.wait(10)
    may_answer.set()
    first.join(10)
    second.join(10)
    assert answers == ["the first one's"] * 2


def test_who_waited_shares_the_error_instead_of_waiting_once_more() -> None:
    shared = SharedCache(clock=Clock())
    asking, may_fail, waits = threading.Event(), threading.Event(), threading.Event()
    errors: list[str] = []

    def fails() -> str:
        asking.set()
        assert may_fail.wait(10)
        raise OSError("away")

    def ask(what: Callable[[], str]) -> None:
        try:
            errors.append(shared.read("run", what))
        except OSError as error:
            errors.append(str(error))

    first = threading.Thread(target=ask, args=(fails,))
    second = threading.Thread(target=ask, args=(lambda: "asked itself",))
    first.start()
    assert asking.wait(10)
    shared._entries["run"].lock = AnnouncingLock(shared._entries["run"].lock, waits)  # type: ignore[assignment]
    second.start()
    assert waits.wait(10)
    may_fail.set()
    first.join(10)
    second.join(10)
    assert errors == ["away"] * 2


def test_an_error_is_not_shared_with_a_visitor_who_asks_later() -> None:
    shared = SharedCache(clock=Clock())

    def fails() -> str:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        shared.read("run", fails)
    assert shared.read("run", lambda: "back") == "back"


def test_the_least_recently_used_answers_are_dropped() -> None:
    shared = SharedCache(limit=2, clock=Clock())
    for key in ("a", "b", "c"):
        shared.read(key, lambda key=key: key)  # type: ignore[misc]  # bound now
    assert shared.read("c", lambda: "again") == "c"
    assert shared.read("a", lambda: "again") == "again"
