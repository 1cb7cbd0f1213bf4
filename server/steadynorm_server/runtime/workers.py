"""Several server processes behind one port: the kernel spreads connections over them, and one that dies is replaced.

Every worker is a whole server with a socket of its own on the shared address (SO_REUSEPORT, balanced by Linux). They
share no state but Redis. Only their own metrics are merged, through prometheus_client's files, since a scrape reaches
any one of them.

Uvicorn's own supervisor is not used: all its workers accept from one socket, so that one of two got up to 64 of 64
connections, and they outlive a killed parent.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait

from prometheus_client import multiprocess

from steadynorm_server import audit_log
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.runtime import logging
from steadynorm_server.runtime.process import die_with_parent

START_S = 60.0
_STOP_S = 30.0
_MIN_LIFE_S = 5.0
"""A worker that lived for less is replaced only after a second: what fails at once would fail all the time."""
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_SPAWN = multiprocessing.get_context("spawn")

Work = Callable[[ServerConfig, str, Callable[[], None]], None]
"""Serves, given the configuration, the address of Redis and what to call when it is ready. A function of a module."""


class WorkersError(StartError):
    """The workers cannot start. The text says why."""


def shared_socket(family: socket.AddressFamily) -> socket.socket:
    """A TCP socket that can bind to an address that other workers use. Raises WorkersError where there is none."""
    if sys.platform != "linux":
        raise WorkersError("several workers on one port need Linux, whose kernel spreads connections over them.")
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return made


def supervise(work: Work, config: ServerConfig, redis_url: str, ready: Callable[[], None]) -> None:
    """Run config.workers processes of `work` until an exception (of a signal) ends this; they end with it.

    ready: called once all answer. Raises WorkersError when one does not start.
    """
    with _metrics_folder(), contextlib.ExitStack() as stack:
        workers: list[_Worker] = []
        stack.callback(_end, workers, _STOP_S + config.drain_seconds)
        workers.extend(_Worker(number, work, config, redis_url) for number in range(1, config.workers + 1))
        for worker in workers:
            worker.await_ready()
        ready()
        while True:
            wait([worker.process.sentinel for worker in workers])
            for worker in workers:
                worker.replace_if_dead()


class _Worker:
    """One worker, and those that replace it."""

    def __init__(self, number: int, work: Work, config: ServerConfig, redis_url: str) -> None:
        self._number = number
        self._args = work, config, redis_url
        self._start()

    def _start(self) -> None:
        self._ready_receiver, ready_sender = _SPAWN.Pipe(duplex=False)
        name = f"steadynorm-worker-{self._number}"
        self.process = _SPAWN.Process(target=_run, args=(os.getpid(), ready_sender, *self._args), name=name)
        self.process.daemon = True  # one that a signal kept from being counted here does not hold our end up
        self.process.start()
        self._started = time.monotonic()
        ready_sender.close()  # ours: so that the pipe ends with the process

    def await_ready(self) -> None:
        """Raises WorkersError when the process ends, or is not ready in time."""
        with contextlib.suppress(EOFError):
            if self._ready_receiver.poll(START_S):
                self._ready_receiver.recv_bytes()
                return
        raise WorkersError(f"worker {self._number} did not start; the reason is logged above.")

    def replace_if_dead(self) -> None:
        """Start another process in place of one that ended."""
        status, pid = self.process.exitcode, self.process.pid
        if status is None or pid is None:
            return
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # its gauges; its counters stay counted
        print(f"worker {self._number} ended with status {status}: restarted", file=sys.stderr, flush=True)
        if time.monotonic() - self._started < _MIN_LIFE_S:
            time.sleep(1.0)
        self._start()


def _end(workers: list[_Worker], within_s: float) -> None:
    for worker in workers:
        worker.process.terminate()
    deadline = time.monotonic() + within_s
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.exitcode is None:
            worker.process.kill()
            worker.process.join()


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """The folder of the workers' metrics; prometheus_client reads the variable when a worker imports it."""
    try:
        made = tempfile.TemporaryDirectory(prefix="steadynorm-metrics-")
    except OSError as error:
        raise StartError(
            f"several workers need a folder for temporary files: {error.strerror or error}. Mount one at /tmp (a "
            "container: tmpfs, an emptyDir), or set TMPDIR."
        ) from error
    with made as folder:
        os.environ[_DIRECTORY] = folder
        try:
            yield
        finally:
            os.environ.pop(_DIRECTORY, None)


def _run(parent: int, ready_sender: Connection, work: Work, config: ServerConfig, redis_url: str) -> None:
    """The main function of a worker's process."""
    os.setsid()  # a Ctrl-C is for the parent, which ends us in order
    die_with_parent(parent)
    logging.configure(config.log, config.log_level)
    audit_log.configure(config.audit_log)
    work(config, redis_url, lambda: ready_sender.send_bytes(b"ready"))
