"""Servers that are away: after one read that nobody answered no other one waits, until the server answers again."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from steadynorm_contract.client import Client, ClientError, ServerUnreachable

__all__ = ["ABSENCE", "Absence"]


@dataclass(slots=True)
class _Away:
    error: ServerUnreachable
    asked_s: float  # monotonic seconds at which somebody wanted to read


class Absence:
    """Of all visitors of this process. A page of six parts would else wait six times, and its buttons with it.

    While a server is away a thread asks it again every pause_s seconds, for as long as somebody looks: within
    patience_s. So no visitor waits for the one that hangs, and the pages go on as soon as it answers.
    """

    def __init__(self, pause_s: float = 1.0, patience_s: float = 30.0) -> None:
        self._pause_s, self._patience_s = pause_s, patience_s
        self._lock = threading.Lock()
        self._away: dict[str, _Away] = {}

    def of(self, server: str) -> ServerUnreachable | None:
        """Why `server` shall not be asked now. None: it shall."""
        with self._lock:
            if (away := self._away.get(server)) is None:
                return None
            away.asked_s = time.monotonic()
            return away.error

    def begin(self, client: Client, error: ServerUnreachable) -> None:
        """`client` got no answer."""
        with self._lock:
            known = client.server in self._away
            self._away[client.server] = _Away(error.with_traceback(None), time.monotonic())
        if not known:
            threading.Thread(target=self._ask_again, args=(client,), name="steadynorm-absence", daemon=True).start()

    def _ask_again(self, client: Client) -> None:
        try:
            while self._is_wanted(client.server):
                time.sleep(self._pause_s)
                try:
                    client.me()
                except ServerUnreachable:
                    continue
                except ClientError:
                    pass  # an answer, and the next reader's to deal with
                return
        finally:
            with self._lock:
                del self._away[client.server]

    def _is_wanted(self, server: str) -> bool:
        with self._lock:
            return time.monotonic() - self._away[server].asked_s < self._patience_s


ABSENCE = Absence()
"""The one that all pages share."""
