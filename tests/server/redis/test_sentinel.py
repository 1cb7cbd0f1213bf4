"""redis+sentinel://: a real Sentinel, and a failover that it makes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from tests.support.redis_server import port_of, redis_server

from steadynorm_cli.health_checks import Verdict, check_redis
from steadynorm_cli.ports import choose_port

if TYPE_CHECKING:
    from tests.support.waiting import Eventually

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("impatient_with_stores")]


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """Not used: the servers here have stores of their own."""
    return empty_valkey


@contextmanager
def sentinel_of(primary: redis.Redis, folder: Path) -> Iterator[redis.Redis]:
    """A Sentinel that alone decides about this primary, under the name `main`."""
    port = choose_port("127.0.0.1", 0, 0, print)
    folder.mkdir()
    (folder / "sentinel.conf").write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor main 127.0.0.1 {port_of(primary)} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 3000\n"
    )
    binary = shutil.which("redis-server")
    assert binary
    command = [binary, str(folder / "sentinel.conf"), "--sentinel"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            with redis.Redis(port=port, protocol=2) as client:
                yield client
        finally:
            process.kill()


async def test_a_failover_by_sentinel_is_followed(
    serve: Any, make_agent: Any, tmp_path: Path, eventually: Eventually
) -> None:
    with redis_server(tmp_path / "one") as one, redis_server(tmp_path / "two") as two:
        two.replicaof("127.0.0.1", port_of(one))
        eventually(lambda: one.info("replication")["connected_slaves"])  # a Sentinel asks for them each ten seconds
        with sentinel_of(one, tmp_path / "sentinel") as sentinel:

            def knows_replica() -> bool:
                try:
                    return bool(sentinel.sentinel_slaves("main"))
                except redis.ConnectionError:
                    return False

            eventually(knows_replica)
            url = f"redis+sentinel://127.0.0.1:9,127.0.0.1:{port_of(sentinel)}/main"  # the first one is away
            assert all(each.verdict is not Verdict.FAIL for each in check_redis(url) if each.check in ("redis", "role"))
            client = await serve(url=url)
            agent = make_agent(client)
            await agent.register()
            eventually(lambda: two.exists("steadynorm:{tiny-1}:run"))
            one.shutdown(nosave=True)
            began = time.monotonic()
            assert (await client.get("http://test/readyz")).status_code == 503
            while (ready := await client.get("http://test/readyz")).status_code != 200:
                assert time.monotonic() - began < 60, ready.text
                await asyncio.sleep(0.1)
            assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
            await agent.send([1, 2, 3])
            assert two.info("replication")["role"] == "master"
            assert (await agent.get())["step"] == 3


async def test_a_name_that_sentinel_does_not_know_is_said(serve: Any, tmp_path: Path, eventually: Eventually) -> None:
    with redis_server(tmp_path / "one") as one, sentinel_of(one, tmp_path / "sentinel") as sentinel:

        def answers() -> bool:
            try:
                return bool(sentinel.ping())
            except redis.ConnectionError:
                return False

        eventually(answers)
        (check,) = check_redis(f"redis+sentinel://:hush@127.0.0.1:{port_of(sentinel)}/other")
        assert "No master found for 'other'" in check.detail
        assert "hush" not in check.detail
