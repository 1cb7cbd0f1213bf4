"""What is wrong with Redis at the start is one line that says what to do; later it is logged once a minute."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import ResponseError
from tests.support.redis_server import port_of, redis_server

from steadynorm_server import background as tasks
from steadynorm_server.config import ServerConfig
from steadynorm_server.redis.client import Memory
from steadynorm_server.redis_errors import explain
from steadynorm_server.retention.capacity import Capacity
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runtime.store_report import report

pytestmark = pytest.mark.usefixtures("impatient_with_stores")
ENOUGH = "+@read +@write +@connection +@pubsub +eval +evalsha +script|load ~steadynorm:* &steadynorm:*"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with redis_server(tmp_path_factory.mktemp("report") / "redis") as made:
        client: Any = made  # its own types forbid what they do not know
        for name, rules in {"bare": "+@read ~*", "able": ENOUGH}.items():
            client.execute_command("ACL", "SETUSER", name, "reset", "on", ">hush", *rules.split())
        client.connection_pool.connection_kwargs["password"] = "hush"
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">hush")
        yield client


def said(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    report(ServerConfig(data=tmp_path), url)
    lines = [record.getMessage() for record in caplog.records]
    assert all("\n" not in line and "hush" not in line and record.exc_info is None
               for line, record in zip(lines, caplog.records, strict=True))  # fmt: skip
    return lines


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("redis://", "", "refuses the user or the password of REDIS_URL: Authentication required"),
        ("redis://default:hushhush@", "", "refuses the user or the password of REDIS_URL: invalid username-password"),
        ("redis://default:hush@", "/99", "does not have the database that REDIS_URL names at its end"),
        ("redis://bare:hush@", "", "does not permit this server's user what it needs"),
        ("redis://able:hush@", "", "lacks +info"),
    ],
)
def test_what_is_wrong_is_one_line(
    store: Any, before: str, after: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (line,) = said(f"{before}127.0.0.1:{port_of(store)}{after}", tmp_path, caplog)
    assert text in line
    assert f"127.0.0.1:{port_of(store)}" in line


def test_a_redis_that_is_away_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        (line,) = said(f"redis://ada:hush@127.0.0.1:{bound.getsockname()[1]}", tmp_path, caplog)
    assert "Redis does not answer (ConnectionError): Error 111 connecting to" in line
    assert "/readyz and all requests answer 503" in line


@pytest.mark.slow
def test_an_unknown_certificate_authority_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -out {cert}"
    )
    subprocess.run([*made.split(), "-keyout", str(key)], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            for _ in range(2):  # redis-py tries twice
                connection, _ = listener.accept()
                with connection, pytest.raises(OSError), context.wrap_socket(connection, server_side=True):  # noqa: PT011
                    pass

        threading.Thread(target=refuse, daemon=True).start()
        (line,) = said(f"rediss://ada:hush@localhost:{listener.getsockname()[1]}", tmp_path, caplog)
    assert "the certificate of Redis is not trusted: certificate verify failed: self-signed certificate" in line
    assert "ssl_ca_certs=FILE" in line


def test_redis_does_not_repeat_a_password_to_us() -> None:
    echoed = ResponseError("unknown command `AUTH`, with args beginning with: `ada` `hush`")
    assert explain(echoed) == "Redis refuses: unknown command `AUTH`."


async def test_an_error_that_goes_on_is_logged_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "_RESTART_AFTER_S", 0.0)
    now, tries, enough = 0.0, 0, asyncio.Event()

    async def fail() -> None:
        nonlocal now, tries
        tries += 1
        now += 1.0
        if tries == 200:
            enough.set()
        raise RedisAway("Error 111 connecting to somewhere:1. Connection refused.\nand more")

    async with tasks.background("sweeper", fail, lambda: now):
        await enough.wait()
    assert [record.getMessage() for record in caplog.records][:4] == [
        "sweeper: Redis does not answer (ConnectionError): Error 111 connecting to somewhere:1. Connection refused. "
        "Trying again."
    ] * 4
    assert len(caplog.records) == 4  # in 200 s


def test_an_evicting_store_and_one_too_small_are_told_at_the_start(
    store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.config_set("maxmemory", "1gb")
    store.config_set("maxmemory-policy", "allkeys-lru")
    try:
        (line,) = said(f"redis://:hush@127.0.0.1:{port_of(store)}", tmp_path, caplog)
    finally:
        store.config_set("maxmemory-policy", "noeviction")
        store.config_set("maxmemory", "0")
    assert (
        "removes runs when it is full: its maxmemory-policy is allkeys-lru. Set `maxmemory-policy noeviction`" in line
    )


class _Run:
    is_live = True
    archived_at = removes_at = None
    retention = b""

    def __init__(self, redis_bytes: int) -> None:
        self.redis_bytes = redis_bytes


def test_live_runs_that_may_outgrow_the_store_are_told() -> None:
    runs: Any = [_Run(redis_bytes=2**20)] * 100
    small = Capacity.of([Memory(2**30, 4 * 2**30, "noeviction")], runs, Limits())
    assert small.growth_bytes == 100 * 63 * 2**20
    assert small.shortfall_bytes == small.growth_bytes - 3 * 2**30
    (line,) = small.findings()
    assert "takes 1.0 GiB of 4.0 GiB, and the 100 live runs may add 6.2 GiB" in line
    assert Capacity.of([Memory(2**30, 8 * 2**30, "noeviction")], runs, Limits()).findings() == []
    halves = [Memory(2**30, 2 * 2**30, "noeviction"), Memory(0, 2**40, "volatile-lru")]
    assert Capacity.of(halves, runs, Limits()).fullest == 0.5
    assert "volatile-lru" in Capacity.of(halves, runs, Limits()).findings()[0]
    assert Capacity.of([Memory(2**30, 0, "noeviction")], runs, Limits()).findings() == []
