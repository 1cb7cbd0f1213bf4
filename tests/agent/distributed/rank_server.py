"""Forks the ranks of all tests: `python rank_server.py SOCKET`, itself forked from where torch is imported already.

SOCKET is a name in Linux' abstract namespace, at which `tests.support.ranks` listens.

A message is JSON: what to run, with arguments, environment and folder. With it come a log and the write end of a
pipe. The answer is the id of the forked process that runs it. That process writes its exit status to the pipe. The
pipe's end comes when it and all its ranks have ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import torch._dynamo  # noqa: F401 # what DistributedDataParallel imports, for seconds in each rank

import steadynorm

if TYPE_CHECKING:
    from tests.agent.distributed import scenarios
else:
    import scenarios  # this file runs as a program beside it

steadynorm.attach  # noqa: B018 # imports the agent


def become(request: dict[str, Any], log: int, ended: int) -> None:
    """Run the program as `python PROGRAM SCENARIO WORLD FOLDER ARGUMENTS` would."""
    ctypes.CDLL(None).prctl(scenarios.PR_SET_PDEATHSIG, signal.SIGKILL)
    for stream in (1, 2):
        os.dup2(log, stream)
    program, *arguments = request["command"]
    sys.argv = [program, *arguments]
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    own = os.getpid()
    status = importlib.import_module(program).main()
    if os.getpid() == own:  # ranks return from main() as well
        os.write(ended, str(int(status)).encode())
    sys.exit(status)


def main() -> None:
    """Until the other end of the socket is closed."""
    gc.freeze()  # ranks' collections would copy every page of it
    requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    requests.connect(f"\0{sys.argv[1]}")
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 2)
        if not message:
            return
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        child = os.fork()
        if child == 0:
            requests.close()
            become(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(child).encode())


if __name__ == "__main__":
    main()
