"""Forks Python programs from a process that has imported what they import: `python fork_server.py SOCKET`.

Started by `tests.support.interpreter`. A message is JSON: the arguments of Python, environment, folder, and the modules
to import before. With it come stdin, stdout, stderr and the write end of a pipe. The answer is the program's process
id; its exit status goes to the pipe when it has ended.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import types
import warnings
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


def become(request: dict[str, Any], streams: list[int]) -> None:
    """What `python ARGUMENTS` does after its start. Exceptions leave by the interpreter's own end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for stream, descriptor in enumerate(streams):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])

    arguments = request["arguments"]
    if arguments[0] == "-W":
        warnings.simplefilter(arguments[1])
        arguments = arguments[2:]
    sys.path[0] = ""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    program = types.ModuleType("__main__")
    sys.modules["__main__"] = program
    if arguments[0] == "-c":
        text, name, sys.argv = arguments[1], "<string>", ["-c", *arguments[2:]]
    else:
        text, name, sys.argv = Path(arguments[0]).read_text("utf-8"), arguments[0], arguments
        sys.path[0] = str(Path(name).resolve().parent)
        program.__file__ = str(Path(name).resolve())
    exec(compile(text, name, "exec"), program.__dict__)


def main() -> None:
    """Until the other end of the socket is closed."""
    sys.path[0] = ""  # not this folder, whose files have names that others have too
    requests = socket.socket(fileno=int(sys.argv[1]))
    running: dict[int, tuple[int, int]] = {}  # pipe and process id, by descriptor of the process
    while True:
        waited_for: list[Any] = [requests, *running]
        for ready in select.select(waited_for, [], [])[0]:
            if ready is not requests:
                ended, process = running.pop(ready)
                os.write(ended, str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])).encode())
                os.close(ended)
                os.close(ready)
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 4)
            if not message:
                return
            *streams, ended = descriptors
            request = json.loads(message)
            for module in request["modules"]:
                importlib.import_module(module)
            gc.freeze()  # collections in the programs would copy every page of it
            process = os.fork()
            if process == 0:
                requests.close()
                os.close(ended)
                become(request, streams)
                return
            for stream in streams:
                os.close(stream)
            running[os.pidfd_open(process)] = ended, process
            requests.send(str(process).encode())


if __name__ == "__main__":
    main()
