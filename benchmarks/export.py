"""The export of a long run: how long it takes, what the server needs for it, and whether others wait meanwhile.

    python benchmarks/export.py [--steps 1000000] [--parameters 300] [--detail-every 10]

The run is the one of query.py, stored in the same way. A real server process exports both of its tables while another
client asks for the list of runs again and again. The files are read back: every step must be in each once, and the one
spike its maximum. Prints one JSON object; exits with status 1 if anything is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq
from malformed import memory_mb, served
from query import RUN_ID, SPIKE, History, fill

from steadynorm_contract.client import Client
from steadynorm_server.runtime.embedded_redis import embedded_redis_server


class Bystander:
    """Asks for the list of runs every 10 ms, and notes how long each answer took."""

    def __init__(self, client: Client) -> None:
        self.took_ms: list[float] = []
        self._client, self._over = client, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._over.wait(0.01):
            began = time.perf_counter()
            self._client.runs()
            self.took_ms.append(1000 * (time.perf_counter() - began))


def export(client: Client, table: Literal["steps", "parameters"], history: History) -> dict[str, object]:
    """One export, checked."""
    file = io.BytesIO()
    with Bystander(client) as others:
        began = time.perf_counter()
        size = client.export(RUN_ID, file, table)
        took_s = time.perf_counter() - began
    columns = ["count", "raw_norm_max", *(["parameter"] if table == "parameters" else [])]
    found = pq.read_table(file, columns=columns)
    rows = history.steps if table == "steps" else history.steps // history.detail_every * history.parameters
    waited = sorted(others.took_ms)
    return {
        "seconds": round(took_s, 2),
        "mib": round(size / 2**20, 1),
        "rows": found.num_rows,
        "groups": pq.ParquetFile(file).num_row_groups,
        "whole": pc.sum(found["count"]).as_py() == rows and pc.max(found["raw_norm_max"]).as_py() == SPIKE,
        "others_median_ms": round(statistics.median(waited), 1),
        "others_p99_ms": round(waited[int(0.99 * len(waited))], 1),
    }


def main() -> None:
    """Fill, export, print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--parameters", type=int, default=300)
    parser.add_argument("--detail-every", type=int, default=10, help="steps between rows")
    given = parser.parse_args()
    history = History(given.steps, given.parameters, given.detail_every)
    with tempfile.TemporaryDirectory() as name, embedded_redis_server(Path(name) / "redis") as url:
        seconds = asyncio.run(fill(url, history))
        print(f"stored {given.steps} steps of {given.parameters} parameters in {seconds:.0f} s", flush=True)
        with served(url, Path(name)) as (server, address, token):
            client = Client(address, token, timeout_s=60)
            client.runs()
            before_mb, _ = memory_mb(server)
            exports = {"steps": export(client, "steps", history), "parameters": export(client, "parameters", history)}
            now_mb, peak_mb = memory_mb(server)
    memory = {"before_mb": round(before_mb), "after_mb": round(now_mb), "peak_mb": round(peak_mb)}
    print(json.dumps({"steps": given.steps, "parameters": given.parameters, **memory, **exports}))
    if not all(each["whole"] for each in exports.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
