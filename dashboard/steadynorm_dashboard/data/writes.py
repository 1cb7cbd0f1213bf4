"""A write that runs in a thread of its own, so that a server that hangs does not hold up the page."""

from __future__ import annotations

import threading
from collections.abc import Callable

from steadynorm_contract.client import Finding, OutcomeUnknown

_LOOK_S = 600.0
"""How long a write without an answer is looked for."""


class Write:
    """Sends a write. Where its answer is lost, it looks what came of it as soon as the server answers.

    Attributes:
        unknown: The answer was lost, and nobody knows yet what came of it.
        done: `answer` is there.
        answer: What the request returned; a Finding where it had to be looked up; the error where it failed.
    """

    def __init__(self, request: Callable[[], object]) -> None:
        self.unknown: OutcomeUnknown | None = None
        self.done = threading.Event()
        self.answer: object = None
        threading.Thread(target=self._run, args=(request,), name="steadynorm-write", daemon=True).start()

    def _run(self, request: Callable[[], object]) -> None:
        try:
            self.answer = self._send(request)
        except Exception as error:  # whoever reads the answer deals with it
            self.answer = error
        self.done.set()

    def _send(self, request: Callable[[], object]) -> object:
        try:
            return request()
        except OutcomeUnknown as error:
            self.unknown = error
            found: Finding | None = error.settle(_LOOK_S)
            return error if found is None else found
