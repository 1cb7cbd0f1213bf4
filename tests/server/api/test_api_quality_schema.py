"""schemathesis tries what /openapi.json says against a real server, with all of its checks, and finds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_schemathesis_finds_nothing(empty_valkey: str, tmp_path: Path, root: Path) -> None:
    """In requests that stand alone, and in sequences of them that make runs, use them and delete them."""
    checked = subprocess.run(
        [sys.executable, root / "benchmarks" / "openapi.py", "--phases", "fuzzing,stateful", "--examples", "10"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path, env={**os.environ, "REDIS_URL": empty_valkey},
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout[-6000:] + checked.stderr[-2000:]
    told = json.loads(checked.stdout.splitlines()[-1])
    assert (told["tracebacks"], [part["failures"] for part in told["parts"].values()]) == (0, [0, 0])
    assert [part["cases"] > 50 for part in told["parts"].values()] == [True, True]
