"""A real store whose snapshot failed refuses every write (MISCONF): a 503, nothing by halves; the doctor knows why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.support.redis_server import content

from steadynorm_cli.health_checks import Verdict, check_redis
from steadynorm_contract.codec import encode_batch, encode_json


class Refusing:
    """A store that can be brought to this state and out of it."""

    def __init__(self, client: Any) -> None:
        self._client = client  # redis-py's own types allow str everywhere
        self._file = Path(client.config_get("dir")["dir"]) / client.config_get("dbfilename")["dbfilename"]

    def content(self) -> dict[bytes, object]:
        """All that it holds."""
        return content(self._client)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Its snapshots have no place to go to, and the last one has failed."""
        self._file.mkdir()  # no file can take the place of a folder
        self._client.config_set("save", "3600 100000")
        try:
            self._snapshot("err")
            yield
        finally:
            self._file.rmdir()
            self._snapshot("ok")
            self._client.config_set("save", "")
            self._file.unlink()

    def _snapshot(self, wanted: str) -> None:
        self._client.bgsave()
        within = time.monotonic() + 10
        while (told := self._client.info("persistence"))["rdb_bgsave_in_progress"] or (
            told["rdb_last_bgsave_status"] != wanted
        ):
            assert time.monotonic() < within, told
            time.sleep(0.005)  # a child process of the store: nothing tells of its end


@pytest.fixture
def refusal(store_url: str) -> Iterator[Refusing]:
    with redis.Redis.from_url(store_url, protocol=2) as client:
        yield Refusing(client)


async def test_a_store_whose_snapshot_failed_is_read_and_answers_every_write_with_503(
    agent: Any, make_agent: Any, refusal: Refusing, store_url: str
) -> None:
    await agent.send(range(1, 11))
    assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    sent, before = agent.batch(2, range(11, 21)), refusal.content()
    new = make_agent(agent.client, run_id="new-1", instance="two").registration
    ask: Callable[..., Any] = agent.client.request
    with refusal.refusing():
        responses = [
            await ask("POST", "/runs", content=encode_json(new)),
            await ask("POST", f"{agent.run}/telemetry", content=encode_batch(sent)),
            await agent.change(1, {"gamma2": 0.8}),
            await ask("PUT", f"{agent.run}/retention", content=b'{"max_mib": 16}'),
            await ask("POST", f"{agent.run}/finish", content=b'{"state": "finished"}'),
            await ask("DELETE", agent.run),
            await ask("GET", "http://test/readyz"),
        ]
        for answer in responses:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2"), answer.request.url
            assert answer.json()["title"] == "Redis unavailable"
        assert (await agent.get())["counters"]["steps"] == 10
        assert [run["run_id"] for run in (await ask("GET", "/runs")).json()["runs"]] == ["tiny-1"]
        (found,) = [each for each in check_redis(store_url) if each.verdict is Verdict.FAIL]
        assert (found.check, "MISCONF" in found.detail, "`dir`" in found.fix) == ("snapshots", True, True)
    assert refusal.content() == before
    assert (await agent.post(sent)).json()["acknowledged"] == 2
    assert (await agent.get())["counters"]["steps"] == 20
    assert (await agent.change(1, {"gamma2": 0.8})).status_code == 200
    assert [each.check for each in check_redis(store_url) if each.verdict is Verdict.FAIL] == []
