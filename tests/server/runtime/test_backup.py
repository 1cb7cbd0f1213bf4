"""What the embedded store acknowledged before a backup is in it, also while it rewrites its log, and comes back."""

from __future__ import annotations

import os
import tarfile
import threading
from pathlib import Path

import pytest
import redis

from steadynorm_server.errors import StartError
from steadynorm_server.runtime.backup import BackupError, back_up, restore
from steadynorm_server.runtime.embedded_redis import embedded_redis_server


def test_a_backup_of_a_store_that_works_has_all_that_was_acknowledged_and_comes_back_elsewhere(tmp_path: Path) -> None:
    file, acknowledged, stop = tmp_path / "backup.tar", 0, threading.Event()
    with embedded_redis_server(tmp_path / "a") as url, redis.Redis.from_url(url, protocol=2) as client:

        def write() -> None:
            nonlocal acknowledged
            while not stop.is_set():
                client.rpush("steadynorm:list", b"x" * 1000)
                acknowledged += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            with redis.Redis.from_url(url, protocol=2) as other:
                while acknowledged < 20:
                    other.ping()
                other.bgrewriteaof()
            before = acknowledged
            assert back_up(tmp_path / "a", file) > 20 * 1000
        finally:
            stop.set()
            writer.join()
        assert client.config_get("auto-aof-rewrite-percentage") == {"auto-aof-rewrite-percentage": "100"}
    assert file.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("backup.tar.*"))
    restore(file, tmp_path / "b")
    with embedded_redis_server(tmp_path / "b") as url, redis.Redis.from_url(url, protocol=2) as client:
        assert before <= int(client.llen("steadynorm:list")) <= acknowledged
    again = tmp_path / "again.tar"
    back_up(tmp_path / "b", again)  # of a store that does not run
    with pytest.raises(BackupError, match="holds data already"):
        restore(again, tmp_path / "b")


def test_what_is_no_backup_and_what_has_no_data_is_said(tmp_path: Path) -> None:
    (tmp_path / "kept" / "appendonlydir").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackupError, match="is not a file"):
        back_up(tmp_path / "kept", tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    with pytest.raises(BackupError, match="holds no data of an embedded store"):
        back_up(tmp_path / "none", tmp_path / "file")
    (tmp_path / "appendonlydir").mkdir()
    nowhere = tmp_path / "nowhere" / "file"
    with pytest.raises(BackupError, match=rf"^{nowhere} cannot be written: No such file or directory\. Choose another"):
        back_up(tmp_path, nowhere)
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(BackupError, match="is no whole backup"):
        restore(tmp_path / "text", tmp_path / "new")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "text", "appendonlydir/../../escaped")
        archive.add(tmp_path / "text", "elsewhere")
    with pytest.raises(StartError, match="is no whole backup"):
        restore(tmp_path / "other.tar", tmp_path / "new")
    assert not (tmp_path / "escaped").exists()
