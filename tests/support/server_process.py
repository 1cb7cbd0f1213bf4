"""A server in a process of its own, with a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.runtime.serve import serve
try:
    serve(ServerConfig(data=Path(sys.argv[1]), port=0, dashboard_url="http://127.0.0.1:8471"))
except StartError as error:
    sys.exit(f"StartError: {error}")
"""


@contextlib.contextmanager
def server_process(data: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A server process and what it said when it was ready: its address is the last word of the first line."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("STEADYNORM_", "REDIS_URL"))}
    server = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(data)],
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | environment,
    )
    assert server.stderr is not None
    try:
        first = server.stderr.readline()
        assert first.startswith("steadynorm server at "), first + server.stderr.read()
        said = [first.strip()]
        while not said[-1].startswith("API"):
            said.append(server.stderr.readline().strip())
        yield server, said
    finally:
        server.terminate()
        server.communicate(timeout=30)


def stop(server: subprocess.Popen[str], sign: int = signal.SIGTERM) -> tuple[str, float]:
    """End it; gives what it still said and the seconds that it took."""
    began = time.monotonic()
    server.send_signal(sign)
    _, said = server.communicate(timeout=30)
    return said, time.monotonic() - began
