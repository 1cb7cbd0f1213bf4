"""Child processes: logged to a file, ended in order, never left behind."""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None  # loaded before any fork


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent dies, by SIGKILL too. Only Linux can.

    The kernel watches the *thread* that started this process: start it from one that lives as long as it should.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and their children too
    die_with_parent(parent)


class ManagedProcess:
    """A child process, started at once, in a session of its own: a terminal's Ctrl-C reaches only the parent, which
    then ends its children in the right order.

    log: file for its output, overwritten; folders must exist. None: the output is the parent's.
    """

    def __init__(
        self, name: str, argv: Sequence[str], *, log: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with open(log if log is not None else os.devnull, "wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=None if log is None else output,
                stderr=None if log is None else subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=functools.partial(_begin, os.getpid()),
            )

    @property
    def pid(self) -> int:
        """Process id, also its process group's."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        if self.log is None:
            return ""
        with self.log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end; returns the exit status. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def end(self, grace_s: float = 10.0, *, interrupt: bool = False) -> None:
        """SIGTERM, and after `grace_s` seconds SIGKILL to its whole group. Returns when it is gone.

        interrupt: SIGINT first, as of its own Ctrl-C, and SIGTERM as long after it.
        """
        if self._process.poll() is not None:
            return
        if interrupt:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
