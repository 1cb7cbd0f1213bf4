"""What visitors of one process read together."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from steadynorm_dashboard.data.shared_cache import SharedReads


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Announced:
    """A lock that tells that somebody is about to wait for it."""

    def __init__(self, lock: threading.Lock, waits: threading.Event) -> None:
        self._lock, self._waits = lock, waits

    def __enter__(self) -> None:
        self._waits.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_within_a_moment_two_visitors_cost_one_read_and_later_another_one() -> None:
    clock, asked = Clock(), iter(range(10))
    shared = SharedReads(fresh_s=0.7, clock=clock)
    assert [shared.read("run", lambda: next(asked)) for _ in range(3)] == [0, 0, 0]
    assert shared.read("another question", lambda: next(asked)) == 1
    clock.now = 0.7
    assert shared.read("run", lambda: next(asked)) == 2


def test_who_asks_meanwhile_waits_for_the_answer_that_is_on_its_way() -> None:
    shared = SharedReads(clock=Clock())
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
    shared._places["run"].lock = Announced(shared._places["run"].lock, waits)  # type: ignore[assignment]
    second.start()
    assert waits.wait(10)
    may_answer.set()
    first.join(10)
    second.join(10)
    assert answers == ["the first one's"] * 2


def test_who_waited_shares_the_error_instead_of_waiting_once_more() -> None:
    shared = SharedReads(clock=Clock())
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
    shared._places["run"].lock = Announced(shared._places["run"].lock, waits)  # type: ignore[assignment]
    second.start()
    assert waits.wait(10)
    may_fail.set()
    first.join(10)
    second.join(10)
    assert errors == ["away"] * 2


def test_an_error_is_not_kept_for_who_asks_later() -> None:
    shared = SharedReads(clock=Clock())

    def fails() -> str:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        shared.read("run", fails)
    assert shared.read("run", lambda: "back") == "back"


def test_answers_that_nobody_asked_for_lately_are_dropped() -> None:
    shared = SharedReads(limit=2, clock=Clock())
    for key in ("a", "b", "c"):
        shared.read(key, lambda key=key: key)  # type: ignore[misc]  # bound now
    assert shared.read("c", lambda: "anew") == "c"
    assert shared.read("a", lambda: "anew") == "anew"
