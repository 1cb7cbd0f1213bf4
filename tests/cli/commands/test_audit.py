"""`steadynorm audit`: a list for people, an export that verifies by itself, and the verdict as an exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from steadynorm_contract.audit import AuditEntry, verify
from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import RunRegistration


def call(house: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steadynorm_cli", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env=house.environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_id(house: Any) -> str:
    """A run with three changes."""
    import urllib3

    registration = RunRegistration(name="audited", run_id="audited-1")
    headers = {"Authorization": f"Bearer {house.token}", "Content-Type": "application/json"}
    made = urllib3.request("POST", f"{house.server}/api/v1/runs", body=encode_json(registration), headers=headers)
    assert made.status in (200, 201)
    for revision, reason in enumerate(("first", "\x1b[31mred", "<b>last</b>\n")):
        house.client.change("audited-1", {"gamma2": 0.9 + revision / 100}, revision=revision, reason=reason)
    return "audited-1"


def test_people_get_a_line_a_change_without_control_sequences(house: Any, run_id: str) -> None:
    ended = call(house, "audit", run_id)
    lines = ended.stdout.splitlines()
    assert (ended.returncode, len(lines)) == (0, 3)
    assert "gamma2 0.999 → 0.9" in lines[0]
    assert "(first)" in lines[0]
    assert "\x1b" not in ended.stdout
    assert "[31mred" in lines[1]


def test_the_export_is_json_lines_that_verify_by_themselves(house: Any, run_id: str) -> None:
    ended = call(house, "audit", run_id, "--json", "--verify")
    assert ended.returncode == 0, ended.stderr
    exported = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["reason"] for each in exported] == ["first", "\x1b[31mred", "<b>last</b>\n"]
    assert {each["run_id"] for each in exported} == {run_id}
    entries = [msgspec.convert(each, AuditEntry) for each in exported][::-1]
    assert verify(run_id, entries).verified
    assert f"3 entries verified; the newest hash is {entries[0].hash}" in ended.stderr


def test_a_hash_that_was_kept_is_looked_for(house: Any, run_id: str) -> None:
    kept = house.client.audit(run_id).entries[1].hash
    assert call(house, "audit", run_id, "--verify", "--head", kept).returncode == 0
    ended = call(house, "audit", run_id, "--verify", "--head", "0" * 64)
    assert ended.returncode == 6
    assert "it was rewritten or truncated" in ended.stderr
