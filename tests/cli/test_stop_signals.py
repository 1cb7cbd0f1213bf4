"""A signal stops the program wherever it lands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.interpreter import COMMANDS
from tests.support.local_server import clean_environment

from steadynorm_cli.stop_signals import Stopped, stop_signals

if TYPE_CHECKING:
    from tests.support.interpreter import Interpreter


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_error_handling_swallows_a_stop(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    went_on: list[str] = []

    def careless() -> None:
        with contextlib.suppress(Exception):
            try:
                os.kill(os.getpid(), signum)
                signal.sigtimedwait([signal.SIGUSR1], 1)  # the handler runs here at the latest
            except Exception:
                went_on.append("inside")
        went_on.append("behind")

    with stop_signals(), pytest.raises(Stopped, match=signum.name):
        careless()
    assert went_on == []
    assert signal.getsignal(signum) is before


def test_a_stop_in_a_finalizer_is_raised_behind_it() -> None:
    class Closing:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([signal.SIGUSR1], 1)

    def close() -> None:
        Closing()
        signal.sigtimedwait([signal.SIGUSR1], 60)

    with stop_signals(), pytest.raises(Stopped):
        close()


def test_a_stop_in_a_callback_of_a_loop_ends_the_loop() -> None:
    async def serve() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    with stop_signals(), pytest.raises(Stopped):
        asyncio.run(serve())


STARTING = """
import os, signal, sys, time
from importlib import import_module
path, name = sys.argv.pop(1).rsplit(".", 1)
module, _, kind = path.rpartition(".")
owner = import_module(path) if path.islower() else getattr(import_module(module), kind)
real, done = getattr(owner, name), []
def hooked(*args, **options):
    if not done:
        done.append(os.kill(os.getpid(), signal.SIGTERM))
    return real(*args, **options)
setattr(owner, name, hooked)
sys.argv[0] = "steadynorm"
from steadynorm_cli.main import main
main()
"""
_SERVER = "steadynorm_server.runtime"


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "importlib.metadata.files",  # as the store's program is looked for
        f"{_SERVER}.embedded_redis._await_ready",
        "redis.connection.AbstractConnection.connect",  # within a try of redis-py
        f"{_SERVER}.store_report._findings",
        "steadynorm_server.runs.repository.RunRepository.check",  # within a loop of asyncio
        f"{_SERVER}.serve.create_app",
        "steadynorm_server.redis.change_feed.ChangeNotifier.running",  # as the application starts
        f"{_SERVER}.serve._announce",
    ],
)
def test_a_stop_in_the_start_ends_it(moment: str, python_without_torch: Interpreter, tmp_path: Path) -> None:
    modules = (*COMMANDS, "steadynorm_server.runtime.serve", "steadynorm_server.app")
    arguments = ("-c", STARTING, moment, "server", "--data", str(tmp_path), "--port", "0")
    ended = python_without_torch.run(*arguments, env=clean_environment(tmp_path), modules=modules, timeout_s=50)
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "server.json").exists()
    assert not _stores_in(tmp_path)


def _stores_in(folder: Path) -> list[str]:
    """Commands of Redis servers that run on this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if str(folder) in command and "unixsocket" in command:
                    found.append(command)
    return found
