"""`steadynorm up`: one process tree, which starts completely, stops completely, and leaves nothing behind."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steadynorm_cli.commands.serve import _banner, dashboard
from steadynorm_cli.errors import CommandError
from steadynorm_cli.local_stack import LocalStack


def descendants(pid: int) -> dict[int, str]:
    """Process ids below `pid` and their command lines."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it ended in this moment
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            waiting.append(child)
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not collected yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Up:
    """`steadynorm up` in a folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
        kept.pop("REDIS_URL", None)
        self.environment = {**kept, "STEADYNORM_HOME": str(home)}
        self.output = home.with_suffix(".out")
        self.command = [sys.executable, "-m", "steadynorm_cli", "up", "--port", "0", "--dashboard-port", "0"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)

    def text(self) -> str:
        """What it printed so far."""
        return self.output.read_text("utf-8")


@pytest.fixture
def up(tmp_path: Path, eventually: Any) -> Iterator[Up]:
    """A stack that is up, with all of its parts."""
    started = Up(tmp_path / "home")
    try:
        eventually(lambda: "Ctrl-C" in started.text() or started.process.poll() is not None)
        assert started.process.poll() is None, started.text()
        yield started
    finally:
        if started.process.poll() is None:
            started.process.terminate()
        started.process.wait(60)


def part(parts: dict[int, str], word: str) -> int:
    """The pid of the part whose command line holds `word`."""
    return next(pid for pid, command in parts.items() if word in command)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_all_of_it_in_order(up: Up, signum: signal.Signals, eventually: Any) -> None:
    parts = descendants(up.process.pid)
    assert part(parts, "streamlit")
    assert part(parts, "steadynorm_cli server")
    assert part(parts, "redis.sock")
    second = subprocess.run(up.command, env=up.environment, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 1
    assert "already runs on" in second.stderr

    up.process.send_signal(signum)
    assert up.process.wait(60) == 0, up.text()
    assert [command for pid, command in parts.items() if alive(pid)] == []
    assert not (up.home / "server.json").exists(), "the address of a server that is gone"
    assert "Traceback" not in up.text() + (up.home / "logs" / "server.log").read_text("utf-8")


def test_nothing_survives_when_it_is_killed(up: Up, eventually: Any) -> None:
    parts = descendants(up.process.pid)
    assert len(parts) >= 3
    up.process.kill()
    up.process.wait(60)
    eventually(lambda: not any(alive(pid) for pid in parts))


def test_a_part_that_dies_ends_the_others_and_its_log_is_shown(up: Up, eventually: Any) -> None:
    parts = descendants(up.process.pid)
    os.kill(part(parts, "streamlit"), signal.SIGKILL)
    assert up.process.wait(60) == 1
    assert "the dashboard ended with status -9" in up.text()
    eventually(lambda: not any(alive(pid) for pid in parts))


def test_a_folder_that_cannot_hold_data_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(CommandError, match=rf"^{folder}\S* cannot be written: [A-Z].*\. Name another folder"):
            LocalStack(folder).__enter__()


def test_what_to_export_can_be_pasted_and_a_dashboard_on_a_port_in_use_prints_no_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack: Any = SimpleNamespace(data=tmp_path / "Jörg's runs", logs=tmp_path, server="", link=lambda: "")
    assert shlex.split(_banner(stack).splitlines()[-1].partition("export ")[2]) == [f"STEADYNORM_HOME={stack.data}"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"port {port} on 127.0.0.1 is in use by another program, or by your"):
            dashboard(port=port)
    assert capsys.readouterr().out == ""
