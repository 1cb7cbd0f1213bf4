"""SIGTERM at 200 moments of the server's start, spread evenly over it: how long it takes to end, and what it leaves.

    python benchmarks/stop_at_start.py            # about five minutes
    python benchmarks/stop_at_start.py --tries 20

A try is lost when the server outlives its signal by five seconds, when its Redis outlives it, or when it ends with a
traceback.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from steadynorm_server.runtime.process import die_with_parent

_ENDS_WITHIN_S = 5.0


def main() -> None:
    """Print a line with the figures; exit status 1 where a try was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=200)
    tries: int = parser.parse_args().tries
    with tempfile.TemporaryDirectory() as folder:
        whole = max(_start(Path(folder) / f"whole-{at}") for at in range(2))
        ended, lost = [], []
        for at in range(tries):
            delay = 1.1 * whole * at / tries
            took, fault = _try(Path(folder) / str(at), delay)
            ended.append(took)
            if fault:
                lost.append(f"after {delay:.3f} s: {fault}")
    ended.sort()
    print(
        f"{tries} signals over {1.1 * whole:.1f} s: ended after {ended[len(ended) // 2]:.2f} s (median), "
        f"{ended[-1]:.2f} s (longest); lost {len(lost)}"
    )
    print("\n".join(lost))
    sys.exit(bool(lost))


def _spawn(home: Path) -> "subprocess.Popen[str]":
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STEADYNORM_", "REDIS_URL"))}
    command = [sys.executable, "-m", "steadynorm_cli", "server", "--data", str(home), "--port", "0"]
    environment = {**kept, "STEADYNORM_HOME": str(home)}
    with_us = partial(die_with_parent, os.getpid())
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=with_us)


def _start(home: Path) -> float:
    """Seconds until it is ready."""
    began = time.monotonic()
    with _spawn(home) as server:
        while not (home / "server.json").exists():
            time.sleep(0.01)
        took = time.monotonic() - began
        server.terminate()
        server.communicate(timeout=30)
    return took


def _try(home: Path, delay: float) -> tuple[float, str]:
    """Seconds from the signal to the end, and what went wrong."""
    with _spawn(home) as server:
        time.sleep(delay)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        try:
            _, said = server.communicate(timeout=_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.communicate()
            return _ENDS_WITHIN_S, "it did not end"
        took = time.monotonic() - began
    if "Traceback" in said or "Exception ignored" in said:
        return took, said.strip().splitlines()[-1]
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while stores := _stores_in(home):
        if time.monotonic() > deadline:
            for pid in stores:
                os.kill(pid, signal.SIGKILL)
            return took, "its Redis did not end"
        time.sleep(0.02)
    return took, ""


def _stores_in(home: Path) -> list[int]:
    """Processes of Redis that run on this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{home}/redis".encode() in command and b"--unixsocket" in command:
                found.append(int(process.name))
    return found


if __name__ == "__main__":
    main()
