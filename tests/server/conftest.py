"""Fixtures of the server's tests: real Redis and Valkey servers, applications over them, agents."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import redis.utils
from tests.support.server import TOKEN, Clock, FakeAgent, Serve, client_of, emptied

from steadynorm_contract.codec import encode_json
from steadynorm_server import background
from steadynorm_server.app import create_app
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.metrics import scrapes
from steadynorm_server.redis import client
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runtime.embedded_redis import embedded_redis_server, find_binary

redis.utils.get_lib_version = functools.cache(redis.utils.get_lib_version)  # reads a file for each connection


@functools.cache
def _config(variables: tuple[tuple[str, str], ...], settings: tuple[tuple[str, Any], ...]) -> ServerConfig:
    """ServerConfig(**settings) under these variables: to read them takes as long as many a test."""
    return ServerConfig(**dict(settings))


@contextlib.contextmanager
def _unsynced(folder: Path, binary: Path | None = None) -> Iterator[str]:
    """Address of a store that waits for no disk at each write: tests of durability have stores of their own."""
    with embedded_redis_server(folder, binary) as url:
        with redis.Redis.from_url(url, protocol=2) as client:
            client.config_set("appendfsync", "everysec")
        yield url


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the embedded Valkey."""
    with _unsynced(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="session")
def debian_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the system's redis-server."""
    binary = shutil.which("redis-server")
    assert binary, "these tests need redis-server: apt-get install redis-server"
    assert Path(binary) != find_binary()
    with _unsynced(tmp_path_factory.mktemp("redis"), Path(binary)) as url:
        yield url


@pytest.fixture
def empty_valkey(valkey: str) -> str:
    """Address of the embedded Valkey, empty: for tests to which one kind of store is enough."""
    return emptied(valkey)


@pytest.fixture(params=["valkey", "debian_redis"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Address of an empty store; the test runs once for each kind."""
    return emptied(request.getfixturevalue(request.param))


_SHIPPED_TIMEOUT_S = client.TIMEOUT_S


@pytest.fixture(autouse=True)
def _patience_with_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers wait longer for their store's answer than as shipped: machines of tests stand still now and then."""
    monkeypatch.setattr(client, "TIMEOUT_S", 10 * _SHIPPED_TIMEOUT_S)


@pytest.fixture(autouse=True)
def _each_scrape_reads_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests scrape right after what they did; test_scrapes.py is about those that are shared."""
    monkeypatch.setattr(scrapes, "FRESH_S", 0.0)


@pytest.fixture(autouse=True)
def _quick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application whose task missed its cancellation ends after a hundredth of a second: there are thousands."""
    monkeypatch.setattr(background, "_CANCEL_AGAIN_S", 0.01)


@pytest.fixture
def impatient_with_stores(_patience_with_stores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As shipped: for tests of stores that fail."""
    monkeypatch.setattr(client, "TIMEOUT_S", _SHIPPED_TIMEOUT_S)


@pytest.fixture
def clock() -> Clock:
    """The server's clock."""
    return Clock()


@pytest.fixture
async def repository(store_url: str, clock: Clock) -> AsyncIterator[RunRepository]:
    """A store that listens to changes."""
    async with RunRepository(store_url, 30.0, clock).opened() as opened:
        yield opened


@pytest.fixture
def anyone() -> Principal:
    """A sender with every role."""
    return Principal("tester", frozenset(Role))


@pytest.fixture
def without_sweeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers do nothing by themselves: for tests that count round trips, or take from the store what a sweep mends."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("steadynorm_server.app.sweep_repeatedly", never)


@pytest.fixture
async def serve(store_url: str, clock: Clock, tmp_path: Path) -> AsyncIterator[Serve]:
    """Makes further server processes' applications over the same store; gives a client of each."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(tokens: Tokens | None = None, url: str | None = None, **settings: Any) -> httpx.AsyncClient:
            variables = tuple(item for item in os.environ.items() if item[0].startswith(("STEADYNORM_", "REDIS_")))
            config = _config(variables, tuple(settings.items())).model_copy(update={"data": tmp_path})
            app = create_app(config, url or store_url, tokens or Tokens.single(TOKEN), clock)
            return await stack.enter_async_context(client_of(app))

        yield make


@pytest.fixture
async def api(serve: Serve) -> httpx.AsyncClient:
    """A client of one server with the token of every role."""
    return await serve()


@pytest.fixture
async def agent(api: httpx.AsyncClient) -> FakeAgent:
    """A registered agent of the run tiny-1."""
    made = FakeAgent(api)
    await made.register()
    return made


@pytest.fixture
def make_agent() -> type[FakeAgent]:
    """Makes agents: make_agent(client, **what differs in the registration)."""
    return FakeAgent


@pytest.fixture
def body_of() -> Callable[[object], bytes]:
    """JSON as agents send it."""
    return encode_json
