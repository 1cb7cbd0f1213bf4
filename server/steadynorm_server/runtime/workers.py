"""Several processes behind one port: the kernel spreads connections over them, and one that dies is replaced.

Every worker is a whole server with a socket of its own on the shared address (SO_REUSEPORT, as Linux balances it).
They know nothing of each other: what they agree on is in the store. Only their own metrics are joined, by
prometheus_client's files, since a scrape reaches any one of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from prometheus_client import multiprocess

from steadynorm_server.config import ServerConfig
from steadynorm_server.runtime import logging
from steadynorm_server.runtime.process import follow

__all__ = ["Work", "WorkersError", "shared_socket", "supervise"]

START_S = 60.0
_BRIEFLY_S = 5.0
"""A worker that lived for less is replaced only after a second: what fails at once would fail all the time."""
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_SPAWN = multiprocessing.get_context("spawn")

Work = Callable[[ServerConfig, str, Callable[[], None]], None]
"""Serves, given the settings, the store's address and what to call when it is ready. A function of a module."""


class WorkersError(Exception):
    """The workers cannot start. The text says why."""


def shared_socket(family: socket.AddressFamily) -> socket.socket:
    """A TCP socket that may bind to an address which others of us have too. Raises WorkersError where there is none."""
    if sys.platform != "linux":
        raise WorkersError("several workers on one port need Linux, whose kernel spreads connections over them.")
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return made


def supervise(work: Work, settings: ServerConfig, store_url: str, ready: Callable[[], None]) -> None:
    """Run settings.workers processes of `work` until an exception (of a signal) ends this; they end with it.

    ready: called once all answer. Raises WorkersError when one does not start.
    """
    with _metrics_folder(), contextlib.ExitStack() as stack:
        workers = [_Worker(number, work, settings, store_url) for number in range(1, settings.workers + 1)]
        stack.callback(_end, workers)
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.await_ready()
        ready()
        while True:
            wait([worker.sentinel for worker in workers])
            for worker in workers:
                worker.replace_if_dead()


class _Worker:
    def __init__(self, number: int, work: Work, settings: ServerConfig, store_url: str) -> None:
        self._number = number
        self._given = work, settings, store_url
        self._process: SpawnProcess | None = None
        self._started = 0.0

    @property
    def sentinel(self) -> int:
        """Readable once the process is gone."""
        assert self._process is not None
        return self._process.sentinel

    def start(self) -> None:
        """Start the process. It says so on a pipe when it answers."""
        self._heard, said = _SPAWN.Pipe(duplex=False)
        name = f"steadynorm-worker-{self._number}"
        self._process = _SPAWN.Process(target=_run, args=(os.getpid(), said, *self._given), name=name)
        self._process.start()
        self._started = time.monotonic()
        said.close()  # ours: so that the pipe ends with the process

    def await_ready(self) -> None:
        """Raises WorkersError when the process ends, or does not answer in time."""
        with contextlib.suppress(EOFError):
            if self._heard.poll(START_S):
                self._heard.recv_bytes()
                return
        raise WorkersError(f"worker {self._number} did not start; the reason stands above.")

    def replace_if_dead(self) -> None:
        """Start another process in place of one that is gone."""
        process = self._process
        if process is None or process.pid is None or process.exitcode is None:
            return
        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]  # its gauges; what it counted stays counted
        print(f"worker {self._number} ended with status {process.exitcode}: started anew", file=sys.stderr, flush=True)
        if time.monotonic() - self._started < _BRIEFLY_S:
            time.sleep(1.0)
        self.start()

    def end(self) -> None:
        """Ask the process to end."""
        if self._process is not None and self._process.exitcode is None:
            self._process.terminate()

    def join(self, timeout_s: float) -> None:
        """Wait until it is gone; not for ever."""
        if self._process is not None:
            self._process.join(timeout_s)
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join()


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.join(timeout_s=30.0)


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """Where the workers' metrics are; prometheus_client reads the variable when a worker imports it."""
    with tempfile.TemporaryDirectory(prefix="steadynorm-metrics-") as folder:
        os.environ[_DIRECTORY] = folder
        try:
            yield
        finally:
            os.environ.pop(_DIRECTORY, None)


def _run(parent: int, said: Connection, work: Work, settings: ServerConfig, store_url: str) -> None:
    """What a worker's process does."""
    os.setsid()  # a Ctrl-C is for the parent, which ends us in order
    follow(parent)
    logging.configure(settings.log, settings.log_level)
    work(settings, store_url, lambda: said.send_bytes(b"ready"))
