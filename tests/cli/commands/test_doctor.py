"""`steadynorm doctor` on a healthy stack and on Redis servers that are configured badly."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import torch

import steadynorm
from steadynorm_cli.ports import choose_port

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.local_server import RunningStack
    from tests.support.waiting import Eventually


@pytest.fixture
def doctor(steadynorm: Command) -> Command:
    """doctor(...) -> what `steadynorm doctor ...` did."""
    return functools.partial(steadynorm, "doctor")


def checks_of(ended: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {each["check"]: each for each in json.loads(ended.stdout)["checks"]}


@pytest.fixture
def careless(tmp_path: Path, eventually: Eventually) -> Iterator[str]:
    """Address of a store that keeps nothing on the disk and drops what it likes."""
    binary = shutil.which("redis-server")
    assert binary, "these tests need redis-server: apt-get install redis-server"
    path = tmp_path / "s"
    options = {
        "port": "0", "bind": "127.0.0.1", "unixsocket": str(path), "dir": str(tmp_path), "save": "",
        "logfile": str(tmp_path / "log"),
        "appendonly": "no", "maxmemory": "64mb", "maxmemory-policy": "allkeys-lru",
    }  # fmt: skip
    process = subprocess.Popen([binary, *(part for name, value in options.items() for part in (f"--{name}", value))])
    try:
        eventually(path.is_socket)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait()


def test_a_stack_as_it_comes_fails_no_check(doctor: Command, stack: RunningStack) -> None:
    ended = doctor("--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    checks = checks_of(ended)
    for check in ("server", "version", "token", "clock", "redis", "appendonly", "appendfsync", "maxmemory-policy"):
        assert checks[check]["verdict"] == "ok", checks[check]
    assert "operator" in checks["token"]["detail"]
    assert {"append-only file", "memory", "role", "cluster", "disk"} <= checks.keys()


def test_a_run_is_judged_by_what_its_agent_found(doctor: Command, stack: RunningStack) -> None:
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with steadynorm.attach(model, optimizer, run="doctored", server=stack.server, token=stack.token) as agent:
        for _ in range(3):
            other(torch.ones(2)).sum().backward()
            optimizer.step()
        assert agent.flush(20)
    ended = doctor("doctored")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = [line for line in ended.stdout.splitlines() if "training loop" in line]
    assert told[0].startswith("ok")
    assert "2 of 2 tensors, steps seen, hooks once" in told[0]
    assert told[1].startswith("warn")
    assert "none of the parameters of SGD is in the model" in told[1]


def test_a_careless_store_fails_and_each_line_says_what_to_mend(
    doctor: Command, stack: RunningStack, careless: str
) -> None:
    ended = doctor(REDIS_URL=careless)
    assert ended.returncode == 1
    failed = [line for line in ended.stdout.splitlines() if line.startswith("fail")]
    assert [line.split()[1] for line in failed] == ["appendonly", "maxmemory-policy"]
    assert "→ set `appendonly yes`" in failed[0]
    assert "allkeys-lru" in failed[1]
    assert "→ set `maxmemory-policy noeviction`" in failed[1]


def test_a_store_that_loses_a_second_is_a_warning_and_one_that_loses_more_a_failure(
    doctor: Command, stack: RunningStack, careless: str
) -> None:
    with redis.Redis.from_url(careless, protocol=2) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "everysec")
        ended = doctor("--redis", careless, "--json")
        assert ended.returncode == 0, ended.stdout
        assert checks_of(ended)["appendfsync"]["verdict"] == "warn"
        client.config_set("appendfsync", "no")
    ended = doctor("--redis", careless, "--json")
    assert ended.returncode == 1
    assert checks_of(ended)["appendfsync"]["verdict"] == "fail"


def test_a_wrong_token_a_store_that_is_away_and_no_server_are_failures(
    doctor: Command, stack: RunningStack, tmp_path: Path
) -> None:
    ended = doctor("--redis", f"unix://{tmp_path}/none", "--json", STEADYNORM_TOKEN="unknown")
    assert ended.returncode == 1
    checks = checks_of(ended)
    assert checks["token"]["verdict"] == checks["redis"]["verdict"] == "fail"
    assert checks["server"]["verdict"] == "ok"
    ended = doctor("--server", "http://127.0.0.1:9")
    assert ended.returncode == 1
    assert ended.stdout.startswith("fail  server")
    assert "steadynorm up" in ended.stdout
    assert "appendonly" not in ended.stdout, "that of another server"
    assert "Redis was not checked: no server of yours runs at http://127.0.0.1:9." in ended.stdout


def test_a_stores_password_is_not_printed(doctor: Command, stack: RunningStack) -> None:
    ended = doctor(REDIS_URL="redis://me:hush@127.0.0.1:9/0")
    assert ended.returncode == 1
    assert "127.0.0.1:9" in ended.stdout
    assert "hush" not in ended.stdout + ended.stderr
    ended = doctor(REDIS_URL="redis://me:hush/hush@127.0.0.1:9/0")
    assert ended.returncode == 1
    assert "hush" not in ended.stdout + ended.stderr


def test_a_store_that_is_no_cluster_though_its_address_says_so_is_a_failure(
    doctor: Command, stack: RunningStack, careless: str
) -> None:
    with redis.Redis.from_url(careless, protocol=2) as client:
        client.config_set("port", str(port := choose_port("127.0.0.1", 0, 0, print)))
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
    ended = doctor("--redis", f"redis+cluster://127.0.0.1:{port},127.0.0.1:9", "--json")
    assert ended.returncode == 1
    failed = [check for check, each in checks_of(ended).items() if each["verdict"] == "fail"]
    assert failed == ["cluster"]
