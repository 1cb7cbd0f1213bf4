"""Answers to /metrics. All who ask within a second get the same scrape: reading a thousand runs takes a while, and
eight readers may not cost it eight times that."""

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from steadynorm_server.auth.principals import is_named
from steadynorm_server.metrics.exposition import Observed, render
from steadynorm_server.metrics.instruments import ServerMetrics

FRESH_S = 1.0
_OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Scrapes:
    """Of one process. gather: reads the runs and whatever else the metrics need from Redis."""

    def __init__(self, metrics: ServerMetrics, gather: Callable[[], Awaitable[Sequence[Observed]]]) -> None:
        self._metrics = metrics
        self._gather = gather
        self._lock = asyncio.Lock()
        self._moment = float("-inf")
        self._runs: Sequence[Observed] = ()
        self._error: Exception | None = None
        self._bodies: dict[tuple[tuple[str, ...] | None, bool, bool], bytes] = {}

    async def answer(
        self, visible: tuple[str, ...] | None, accept: str = "", accept_encoding: str = ""
    ) -> tuple[bytes, dict[str, str]]:
        """The body and its headers.

        visible: patterns of the registered names that the token is bound to; None: all runs. accept, accept_encoding:
        the request's headers.
        """
        openmetrics, packed = _accepts(accept, "application/openmetrics-text"), _accepts(accept_encoding, "gzip")
        headers = {
            "Content-Type": _OPENMETRICS if openmetrics else CONTENT_TYPE_PLAIN_0_0_4,
            "Vary": "Accept, Accept-Encoding, Authorization",
            **({"Content-Encoding": "gzip"} if packed else {}),
        }
        async with self._lock:
            if time.monotonic() - self._moment >= FRESH_S:
                await self._read()
            if self._error is not None:
                raise self._error.with_traceback(None)
            key = (visible, openmetrics, packed)
            if key not in self._bodies:
                # In a thread: between two of its lines other requests are answered.
                self._bodies[key] = await asyncio.to_thread(self._body, *key)
            return self._bodies[key], headers

    async def _read(self) -> None:
        self._bodies.clear()
        self._error = None
        try:
            self._runs = await self._gather()
        except Exception as error:  # who waits for this scrape gets its error, and does not wait for one more timeout
            self._error = error
        self._moment = time.monotonic()

    def _body(self, visible: tuple[str, ...] | None, openmetrics: bool, packed: bool) -> bytes:
        if packed:
            plain = self._bodies.get((visible, openmetrics, False)) or self._body(visible, openmetrics, False)
            return gzip.compress(plain, compresslevel=1)
        runs = [each for each in self._runs if is_named(each.run.name, visible)]
        own = self._metrics.exposition(sum(each.omitted for each in runs), openmetrics=openmetrics)
        return render(runs, openmetrics=openmetrics) + own


def _accepts(header: str, wanted: str) -> bool:
    """Whether the header names it, and not with a weight of zero."""
    for part in header.lower().split(","):
        name, *options = (word.strip() for word in part.split(";"))
        if name == wanted:
            weight = next((option[2:] for option in options if option.startswith("q=")), "1")
            return weight.strip("0.") != ""
    return False
