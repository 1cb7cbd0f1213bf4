"""`steadynorm audit`: a list for people, an export that verifies by itself, and the verdict as an exit code."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
import redis
from tests.support.commands import Command

from steadynorm_contract.audit import AuditEntry, verify
from steadynorm_contract.codec import encode_json
from steadynorm_contract.lifecycle import LifecycleChange, verify_lifecycle
from steadynorm_contract.notes import NewNote
from steadynorm_contract.telemetry import RunRegistration


@pytest.fixture(scope="module")
def run_id(stack: Any) -> str:
    """A run with three changes."""
    import urllib3

    registration = RunRegistration(name="audited", run_id="audited-1")
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    made = urllib3.request("POST", f"{stack.server}/api/v1/runs", body=encode_json(registration), headers=headers)
    assert made.status in (200, 201)
    for revision, reason in enumerate(("first", "\x1b[31mred", "<b>last</b>\n")):
        stack.client.change("audited-1", {"gamma2": 0.9 + revision / 100}, revision=revision, reason=reason)
    return "audited-1"


def test_people_get_a_line_a_change_without_control_sequences(steadynorm: Command, stack: Any, run_id: str) -> None:
    ended = steadynorm("audit", run_id)
    lines = ended.stdout.splitlines()
    assert (ended.returncode, len(lines)) == (0, 3)
    assert "gamma2 0.999 → 0.9" in lines[0]
    assert "(first)" in lines[0]
    assert "\x1b" not in ended.stdout
    assert "[31mred" in lines[1]


def test_the_export_is_json_lines_that_verify_by_themselves(steadynorm: Command, stack: Any, run_id: str) -> None:
    ended = steadynorm("audit", run_id, "--json", "--verify")
    assert ended.returncode == 0, ended.stderr
    exported = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["reason"] for each in exported] == ["first", "\x1b[31mred", "<b>last</b>\n"]
    assert {each["run_id"] for each in exported} == {run_id}
    entries = [msgspec.convert(each, AuditEntry) for each in exported][::-1]
    assert verify(run_id, entries).verified
    assert f"3 entries verified; the newest hash is {entries[0].hash}" in ended.stderr


def test_a_hash_that_was_kept_is_looked_for(steadynorm: Command, stack: Any, run_id: str) -> None:
    kept = stack.client.audit(run_id).entries[1].hash
    assert steadynorm("audit", run_id, "--verify", "--head", kept).returncode == 0
    ended = steadynorm("audit", run_id, "--verify", "--head", "0" * 64)
    assert ended.returncode == 6
    assert "it was rewritten or truncated" in ended.stderr


def test_notes_and_incidents_are_written_listed_and_verified_with_the_changes(
    steadynorm: Command, stack: Any, run_id: str
) -> None:
    assert steadynorm("note", run_id).returncode == 2
    assert steadynorm("note", run_id, "x", "--take").returncode == 2
    missing = steadynorm("note", run_id, "x", "--incident", "77")
    assert (missing.returncode, "has no event at step '77'" in missing.stderr) == (1, True)
    written = steadynorm("note", run_id, "shard \x1b[31m6", "--step", "7")
    assert written.returncode == 0, written.stderr
    assert re.fullmatch(rf"{run_id}: \S+ \S+Z  step +7  \S+  shard \\x1b\[31m6\n", written.stdout)
    taken = steadynorm("note", run_id, "--incident", "0", "--hand-over", "bob", "--json")
    assert json.loads(taken.stdout)["action"] == "hand_over"
    listed = steadynorm("notes", run_id).stdout.splitlines()
    assert listed[0].endswith(r"shard \x1b[31m6")
    assert listed[1].endswith("hands the incident over to bob")
    assert listed[2] == "the incident at step 0 is taken by bob"
    audited = steadynorm("audit", run_id, "--verify")
    lines = audited.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "note", "note"]
    assert "2 notes verified; the newest hash is" in audited.stderr


@pytest.mark.parametrize(("key", "place"), [("audit", -1), ("audit", 0), ("notes", -1), ("notes", 0)])
def test_an_end_of_a_list_that_is_cut_off_in_redis_shows(
    steadynorm: Command, stack: Any, run_id: str, key: str, place: int
) -> None:
    if key == "notes":
        for text in ("one", "two"):
            stack.client.add_note(run_id, NewNote(text=text))
    with redis.Redis(unix_socket_path=str(stack.home / "redis" / "redis.sock"), protocol=2) as client:
        stream = f"steadynorm:{{{run_id}}}:{key}"
        at, _ = client.xrange(stream)[place]
        kept = client.dump(stream)
        client.xdel(stream, at)
        ended = steadynorm("audit", run_id, "--verify")
        client.restore(stream, 0, kept, replace=True)
    assert (ended.returncode, "tampered with" in ended.stderr) == (6, True), ended.stderr
    assert steadynorm("audit", run_id, "--verify").returncode == 0


def test_a_short_list_of_the_run_as_a_whole_begins_with_its_first_entry() -> None:
    made: list[LifecycleChange] = []
    for at in range(3):
        entry = LifecycleChange(time=float(at), actor="ada", reason="", before={"name": f"{at}"}, after={"name": "x"})
        head = made[0].hash if made else ""
        made.insert(0, msgspec.structs.replace(entry, previous=head, hash=entry.hash_after(head, "tiny-1")))
    assert verify_lifecycle("tiny-1", made, whole=True)
    assert verify_lifecycle("tiny-1", made[:2])
    assert not verify_lifecycle("tiny-1", made[:2], whole=True)
