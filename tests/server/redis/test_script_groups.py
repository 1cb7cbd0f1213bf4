"""Calls that come while one is under way go together next; where Redis is away all who wait hear it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeout

from steadynorm_server.redis.script_groups import Command, ScriptGroups


class Store:
    """Answers each command with itself when `go` is set; what `errors` has is raised, or is the reply to a command."""

    def __init__(self, *errors: Exception) -> None:
        self.sent: list[list[Command]] = []
        self.errors = list(errors)
        self.go, self.began = asyncio.Event(), asyncio.Event()

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        self.sent.append(list(commands))
        self.began.set()
        await self.go.wait()
        if self.errors:
            raise self.errors.pop()
        return [NoScriptError() if command == ("bad",) else command for command in commands]


async def outcomes(groups: ScriptGroups, store: Store, *commands: Command, size: int = 1) -> list[Any]:
    """What comes of commands of which the first is under way when the others come."""
    calls = [asyncio.create_task(groups.run(command, size)) for command in commands]
    await store.began.wait()
    calls[-1].cancel()  # its agent went away
    store.go.set()
    return await asyncio.gather(*calls[:-1], return_exceptions=True)


async def test_what_waits_goes_together_and_each_gets_its_own_reply() -> None:
    store = Store()
    groups = ScriptGroups(store.send)
    found = await outcomes(groups, store, ("a",), ("bad",), ("c",), ("gone",))
    assert found[0::2] == [("a",), ("c",)]
    assert isinstance(found[1], NoScriptError)
    assert await groups.run(("later",), 1) == ("later",)
    assert len(store.sent) < 4


async def test_large_ones_go_alone() -> None:
    store = Store()
    await outcomes(ScriptGroups(store.send), store, *((str(at),) for at in range(4)), size=900_000)
    assert all(len(group) == 1 for group in store.sent)


async def test_where_redis_is_away_all_who_wait_hear_it_at_once_and_the_next_one_is_sent() -> None:
    store = Store(RedisTimeout("no reply"))
    groups = ScriptGroups(store.send)
    found = await outcomes(groups, store, *((str(at),) for at in range(100)))
    assert {type(each) for each in found} == {RedisTimeout}
    assert len({id(each) for each in found}) == len(found)
    assert len(store.sent) == 1
    assert await groups.run(("back",), 1) == ("back",)


async def test_a_defect_is_told_and_stops_nobody_for_ever() -> None:
    store = Store(ValueError("a defect"))
    groups = ScriptGroups(store.send)
    store.go.set()
    with pytest.raises(ValueError, match="a defect"):
        await groups.run(("a",), 1)
    assert await groups.run(("b",), 1) == ("b",)
