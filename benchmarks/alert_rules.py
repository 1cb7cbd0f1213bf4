"""What the alert rules cost Prometheus with many runs: `python benchmarks/alert_rules.py --runs 3000 --seconds 150`.

A real Prometheus with deploy's rules scrapes runs that are made up, one in a hundred of them spiking and one throttled.
Prints one JSON line: milliseconds of one evaluation of each rule, and how many alerts it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import urllib3

from steadynorm_server.runtime.process import die_with_parent

RULES = Path(__file__).resolve().parents[1] / "deploy" / "prometheus" / "rules.yml"
MODES = ("off", "observe", "stabilize")
SCRAPE_S = 5


def value(metric: str, run: int, now: float) -> float:
    """Of `run` at `now`, Unix seconds. What is no trouble is 0."""
    if metric == "steadynorm_spikes_total":
        return now // SCRAPE_S if run % 100 == 0 else 0
    if metric == "steadynorm_target_min":
        return 0.1 if run % 100 == 1 else 1
    return {"steadynorm_run_last_seen_timestamp_seconds": now, "steadynorm_run_step": 10 * now}.get(metric, 0)


def exposition(metrics: list[str], runs: int) -> bytes:
    """The metrics that the rules read, of all runs."""
    now = time.time()
    lines = ['steadynorm_server_dashboard_info{dashboard_url="http://127.0.0.1:8501"} 1']
    for metric in metrics:
        lines += [f'{metric}{{run="run-{at}",run_id="run-{at}"}} {value(metric, at, now)}' for at in range(runs)]
    for at in range(runs):
        for mode in MODES:
            here = int(mode == "stabilize")
            lines.append(f'steadynorm_mode{{run="run-{at}",run_id="run-{at}",steadynorm_mode="{mode}"}} {here}')
    return "\n".join([*lines, ""]).encode()


def serve(body: Callable[[], bytes]) -> ThreadingHTTPServer:
    """/metrics on a free loopback port, in a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = body()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Nothing: its caller prints one line."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def measure(folder: Path, runs: int, seconds: float) -> dict[str, object]:
    """Let Prometheus scrape for `seconds`, then ask it what its newest evaluation took."""
    text = RULES.read_text("utf-8")
    named = set(re.findall(r"\bsteadynorm_\w+", text)) - {"steadynorm_mode", "steadynorm_server_dashboard_info"}
    server = serve(lambda: exposition(sorted(named), runs))
    (folder / "rules.yml").write_text(text, "utf-8")
    (folder / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {SCRAPE_S}s, evaluation_interval: {SCRAPE_S}s}}\nrule_files: [rules.yml]\n"
        "scrape_configs:\n- job_name: steadynorm\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{server.server_port}']}}]\n",
        "utf-8",
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}", "--log.level=error",
        ],
        preexec_fn=partial(die_with_parent, os.getpid()),
    )  # fmt: skip
    try:
        time.sleep(seconds)
        groups = urllib3.request("GET", f"http://{address}/api/v1/rules", timeout=30.0).json()["data"]["groups"]
    finally:
        process.terminate()
        process.wait(60)
        server.shutdown()
    rules = {
        rule["name"]: [round(1000 * rule["evaluationTime"], 1), len(rule.get("alerts", []))]
        for group in groups
        for rule in group["rules"]
    }
    return {"runs": runs, "all_ms": round(sum(took for took, _ in rules.values()), 1), "ms_and_alerts": rules}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), given.runs, given.seconds)))


if __name__ == "__main__":
    main()
