"""A circuit breaker for each server: after one read got no answer, the others fail at once until it answers again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from steadynorm_contract.client import Client, ClientError, ServerUnreachable

_T = TypeVar("_T")


@dataclass(slots=True)
class _Outage:
    error: ServerUnreachable
    requested_s: float  # monotonic seconds of the newest request


class CircuitBreaker:
    """Shared by all visitors of this process. Without it a page of six parts would wait for six time-outs.

    During an outage a thread asks the server every `interval_s` seconds, as long as requests for it arrive within
    `idle_s`. So visitors do not wait for a server that hangs, and pages continue as soon as it answers.
    """

    def __init__(self, interval_s: float = 1.0, idle_s: float = 30.0) -> None:
        self._interval_s, self._idle_s = interval_s, idle_s
        self._lock = threading.Lock()
        self._outages: dict[str, _Outage] = {}

    def call(self, client: Client, request: Callable[[Client], _T]) -> _T:
        """The result of `request`. Raises what it raises, and ServerUnreachable at once during an outage."""
        with self._lock:
            if (outage := self._outages.get(client.server)) is not None:
                outage.requested_s = time.monotonic()
                raise outage.error.with_traceback(None)
        try:
            return request(client)
        except ServerUnreachable as error:
            self._open(client, error)
            raise

    def _open(self, client: Client, error: ServerUnreachable) -> None:
        with self._lock:
            known = client.server in self._outages
            self._outages[client.server] = _Outage(error, time.monotonic())
        if not known:
            threading.Thread(target=self._probe, args=(client,), name="steadynorm-availability", daemon=True).start()

    def _probe(self, client: Client) -> None:
        try:
            while self._is_requested(client.server):
                time.sleep(self._interval_s)
                try:
                    client.me()
                except ServerUnreachable:
                    continue
                except ClientError:
                    pass  # an answer; the next request deals with it
                return
        finally:
            with self._lock:
                del self._outages[client.server]

    def _is_requested(self, server: str) -> bool:
        with self._lock:
            return time.monotonic() - self._outages[server].requested_s < self._idle_s


breaker = CircuitBreaker()
"""The one that all pages share."""
