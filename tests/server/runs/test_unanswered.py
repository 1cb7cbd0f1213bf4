"""Changes without an answer are looked for until it is known what came of them; at the end, the rest is said."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import OutOfMemoryError

from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runs.unanswered import Line, Unanswered


class Store:
    """What is in Redis, and whether it answers."""

    def __init__(self) -> None:
        self.made: set[str] = set()
        self.away = False
        self.told: list[tuple[str, str]] = []

    def line(self, key: str, outcome: str = "made") -> None:
        self.told.append((key, outcome))

    async def look(self, key: str) -> Sequence[Line]:
        if self.away:
            raise RedisAway("gone")
        return [partial(self.line, key)] if key in self.made else []

    def fail(self, unanswered: Unanswered, key: str, error: Exception) -> None:
        with contextlib.suppress(type(error)), self.following(unanswered, key):
            raise error

    def following(self, unanswered: Unanswered, key: str) -> Any:
        return unanswered.following(key, partial(self.look, key), [partial(self.line, key)])


@pytest.fixture
def store() -> Store:
    return Store()


async def test_one_that_arrives_late_has_its_line_once(store: Store) -> None:
    unanswered = Unanswered()
    store.fail(unanswered, "late", RedisAway("gone"))
    store.fail(unanswered, "never", RedisAway("gone"))
    await unanswered.settle()
    assert store.told == []
    store.made.add("late")
    await unanswered.settle()
    await unanswered.settle()
    assert store.told == [("late", "made")]


async def test_one_whose_line_a_later_call_has_written_has_no_second(store: Store) -> None:
    unanswered = Unanswered()
    store.fail(unanswered, "twice", RedisAway("gone"))
    store.made.add("twice")
    unanswered.forget("twice")
    await unanswered.settle()
    assert store.told == []


async def test_after_ten_minutes_one_that_is_not_there_was_not_made(store: Store) -> None:
    now = 0.0
    unanswered = Unanswered(lambda: now)
    store.fail(unanswered, "never", RedisAway("gone"))
    store.away = True
    now = 601.0
    with pytest.raises(RedisAway):
        await unanswered.settle()  # nobody knows yet
    store.away = False
    await unanswered.settle()
    await unanswered.close()
    assert store.told == []


async def test_what_is_still_unknown_at_the_end_is_said_to_be(store: Store) -> None:
    unanswered = Unanswered()
    store.fail(unanswered, "lost", RedisAway("gone"))
    store.fail(unanswered, "refused", OutOfMemoryError("OOM"))
    store.away = True
    await unanswered.close()
    assert store.told == [("lost", "unknown")]


@pytest.mark.parametrize("error", [RedisAway("this part of the cluster is down"), ValueError("no text of ours")])
async def test_one_that_cannot_be_looked_for_keeps_none_from_its_line(store: Store, error: Exception) -> None:
    async def look() -> Sequence[Line]:
        raise error

    unanswered = Unanswered()
    for number in range(20):
        with pytest.raises(RedisAway), unanswered.following(str(number), look, [partial(store.line, str(number))]):
            raise RedisAway("gone")
    store.fail(unanswered, "made", RedisAway("gone"))
    store.made.add("made")
    for _ in range(5):
        with pytest.raises(type(error)):
            await unanswered.settle()
    assert store.told == [("made", "made")]
    await unanswered.close()
    assert sorted(store.told[1:]) == sorted((str(number), "unknown") for number in range(20))


async def test_one_that_was_asked_for_twice_without_an_answer_has_one_line(store: Store) -> None:
    unanswered = Unanswered()
    for _ in range(2):
        store.fail(unanswered, "twice", RedisAway("gone"))
    store.made.add("twice")
    await unanswered.settle()
    assert store.told == [("twice", "made")]


@pytest.mark.usefixtures("without_sweeper")
@pytest.mark.parametrize("again", ["removed", "registered"])
async def test_a_removal_has_its_line_once_whatever_follows_it(
    agent: Any, repository: RunRepository, monkeypatch: pytest.MonkeyPatch, clock: Any, again: str
) -> None:
    told: list[str] = []
    remove = repository.redis.remove

    async def lose(*keys: str) -> None:
        if again == "registered":
            await remove(*keys)
        raise RedisAway("gone")

    monkeypatch.setattr(repository.redis, "remove", lose)
    with pytest.raises(RedisAway):
        await repository.delete("tiny-1", lambda **_: told.append("first"))
    monkeypatch.undo()
    clock.now += 1
    if again == "removed":
        await repository.delete("tiny-1", lambda **_: told.append("second"))
    else:
        await agent.register()
    await repository.unanswered.settle()
    assert told == ["second" if again == "removed" else "first"]
