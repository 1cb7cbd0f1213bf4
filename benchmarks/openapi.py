"""schemathesis tries what /openapi.json says against a real server, with all of its checks.

    python benchmarks/openapi.py [--seconds 600] [--examples N] [--workers 1] [--phases fuzzing,stateful]

A server of its own, over a store of its own or that of $REDIS_URL. Half of the seconds go to requests that stand alone
(examples, coverage, fuzzing), about runs that exist; half to sequences of them (stateful), which make runs, follow them
by their ids and delete them. --examples: so many a route and as many sequences instead, and the same ones each time.
--workers: with more than one, Python 3.11's `ast` sometimes fails in schemathesis, which then blames a route.

Prints what schemathesis says where it finds anything, and last one JSON object: cases, failures and the seconds of
each part, and whether the server's log is free of tracebacks. Exit code 1: something was found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import urllib3

from steadynorm_contract.client import Client
from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.knobs import Knob
from steadynorm_contract.notes import NewNote
from steadynorm_contract.scalars import ScalarDescription, ScalarRecords
from steadynorm_contract.telemetry import Parameter, RunRegistration, TelemetryBatch, floats_to_bytes
from steadynorm_server.runtime.process import die_with_parent

CONFIGURATIONS = Path(__file__).parents[1] / "tests" / "server" / "api"
ALONE, LINKED = ("examples", "coverage", "fuzzing"), ("stateful",)
KNOWN = ("tiny-1", "to-be-deleted")
TABLE = [Parameter("embed.weight", (16, 4), "float32"), Parameter("head.weight", (4, 16), "float32")]


@contextmanager
def served(home: Path) -> Iterator[tuple[str, str]]:
    """A server process, with the runs that the configuration speaks of: its address and its token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    own = {"STEADYNORM_HOME": str(home), "STEADYNORM_RATE_PER_RUN": "0"}
    command = [sys.executable, "-m", "steadynorm_cli", "server", "--port", "0"]
    with (home / "server.log").open("wb") as log:
        with_us = partial(die_with_parent, os.getpid())
        process = subprocess.Popen(command, stderr=log, env=kept | own, preexec_fn=with_us)
    try:
        while not (home / "server.json").exists():
            if process.poll() is not None:
                raise SystemExit((home / "server.log").read_text())
            time.sleep(0.05)
        address, token = json.loads((home / "server.json").read_text())["server"], (home / "token").read_text().strip()
        for run_id in KNOWN:
            made(run_id, address, token)
        yield address, token
    finally:
        process.terminate()
        process.wait(30)


def made(run_id: str, address: str, token: str) -> None:
    """A run with a configuration, a knob, a scalar of its own, a note and a proposal."""
    registration = RunRegistration(
        name="tiny",
        run_id=run_id,
        instance="one",
        parameters=TABLE,
        knobs=[Knob(name="coef", default=0.5, low=0.0, high=1.0)],
        later_settings={"knob.coef": 0.5},
        config={"optimizer": {"lr": 0.1}},
        environment={"git.commit": "f00d"},
    )
    logged = [ScalarRecords(("eval/loss",), [1], struct.pack("<d", 1e9), floats_to_bytes([2.0]))]
    described = {"eval/loss": ScalarDescription("nats", "On held-out data.")}
    batch = TelemetryBatch(incarnation=1, sequence=1, logged=logged, described=described)
    for path, body in (
        ("/runs", encode_json(registration)),
        (f"/runs/{run_id}/telemetry", encode_batch(batch)),
    ):
        headers = {"Authorization": f"Bearer {token}"}
        answer = urllib3.request("POST", f"{address}/api/v1{path}", body=body, headers=headers)
        if answer.status not in (200, 201):
            raise SystemExit(f"{path}: {answer.data!r}")
    client = Client(address, token)
    client.add_note(run_id, NewNote(text="shard 3"))
    client.propose(run_id, {"knob.coef": 0.25}, revision=0, reason="entropy falls")


def tried(address: str, token: str, phases: list[str], bounds: list[str], workers: int) -> dict[str, object]:
    """One run of schemathesis: its exit code, cases, failures and seconds. What it found is printed."""
    configuration = "schemathesis_linked.toml" if "stateful" in phases else "schemathesis.toml"
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "--config-file"),
                *(str(CONFIGURATIONS / configuration), "run", f"{address}/openapi.json"),
                *("-H", f"Authorization: Bearer {token}", "--checks", "all", "--phases", ",".join(phases)),
                *("--workers", str(workers), "--request-timeout", "30", "--no-color", *bounds),
            ],
            capture_output=True, text=True, cwd=folder,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(CONFIGURATIONS)},
        )  # fmt: skip
    if done.returncode != 0:
        print(done.stdout, done.stderr, flush=True)
    cases = re.search(r"(\d+) generated", done.stdout)
    failures = re.search(r"found (\d+) unique", done.stdout)
    return {
        "exit_code": done.returncode,
        "cases": int(cases[1]) if cases else 0,
        "failures": int(failures[1]) if failures else 0,
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=int, default=600)
    options.add_argument("--examples", type=int)
    options.add_argument("--workers", type=int, default=1)
    options.add_argument("--phases", default=",".join((*ALONE, *LINKED)))
    given = options.parse_args()
    wanted = given.phases.split(",")
    parts = [found for part in (ALONE, LINKED) if (found := [phase for phase in part if phase in wanted])]
    bounds = ["--max-time", str(given.seconds // len(parts))]
    if given.examples is not None:
        bounds = ["--max-examples", str(given.examples), "--generation-deterministic"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with served(home) as (address, token):
            told = {",".join(part): tried(address, token, part, bounds, given.workers) for part in parts}
        tracebacks = (home / "server.log").read_text(errors="replace").count("Traceback")
    print(json.dumps({"parts": told, "tracebacks": tracebacks}))
    sys.exit(int(tracebacks > 0 or any(part["exit_code"] for part in told.values())))


if __name__ == "__main__":
    main()
