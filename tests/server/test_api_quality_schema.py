"""schemathesis tries what /openapi.json says against a real server, with all of its checks, and finds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx


def test_schemathesis_finds_nothing(valkey: str, tmp_path: Path, root: Path, make_agent: Any, body_of: Any) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    own = {"REDIS_URL": valkey, "STEADYNORM_HOME": str(tmp_path), "STEADYNORM_RATE_PER_RUN": "0"}
    command = [sys.executable, "-m", "steadynorm_server", "server", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=inherited | own)
    assert server.stderr is not None
    try:
        address = server.stderr.readline().split()[-1]
        token = (tmp_path / "token").read_text("ascii").strip()
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as client:
            answer = client.post(address + "/api/v1/runs", content=body_of(make_agent(None).registration))
            assert answer.status_code in (200, 201)
        here = root / "tests" / "server"
        checked = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", f"{here}/schemathesis.toml"),
                *("run", address + "/openapi.json", "-H", f"Authorization: Bearer {token}", "--checks", "all"),
                *("--phases", "fuzzing", "--max-examples", "20", "--generation-deterministic", "--workers", "2"),
                *("--request-timeout", "30", "--no-color"),
            ],
            capture_output=True, text=True, timeout=120, cwd=tmp_path,
            env=inherited | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(here)},
        )  # fmt: skip
    finally:
        server.terminate()
        _, said = server.communicate(timeout=30)
    assert checked.returncode == 0, checked.stdout[-6000:] + checked.stderr[-2000:]
    assert "Traceback" not in said
