"""What a training job or a colleague wrote is shown by each command, and commands no terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import urllib3

from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import (
    AppliedReport,
    Parameter,
    RevisionOutcome,
    RunRegistration,
    TelemetryBatch,
    UserNote,
)

if TYPE_CHECKING:
    from tests.support.commands import Command
    from tests.support.local_server import RunningStack

EVIL = "\x1b]0;title\x07\x1b[31m\u202ered\r\x9b2J[bold]bold[/bold]"


@pytest.fixture(scope="module")
def run_id(stack: RunningStack) -> str:
    """A run whose job, and whose operators, put a terminal's commands into each text."""

    def send(method: str, path: str, body: Any, **headers: str) -> None:
        data = encode_batch(body) if isinstance(body, TelemetryBatch) else encode_json(body)
        headers = {"Authorization": f"Bearer {stack.token}", **headers}
        answer = urllib3.request(method, f"{stack.server}/api/v1/runs{path}", body=data, headers=headers)
        assert answer.status in (200, 201, 204), answer.data

    parameters = [Parameter(f"p{EVIL}", (4, 4), "float32")]
    texts: dict[str, Any] = {
        "tags": {f"t{EVIL}": EVIL}, "host": EVIL, "framework": EVIL, "config": {f"c{EVIL}": EVIL},
        "environment": {f"e{EVIL}": EVIL},
    }  # fmt: skip
    send("POST", "", RunRegistration(name=f"evil{EVIL}", run_id="evil-1", parameters=parameters, **texts))
    send("PATCH", "/evil-1/settings", {"settings": {"gamma2": 0.9}, "reason": EVIL}, **{"If-Match": '"0"'})
    rejected = AppliedReport(1, 9, RevisionOutcome.REJECTED, Settings(), time=1.7e9, reason=EVIL)
    notes = [UserNote(3, 1.7e9, EVIL)]
    send("POST", "/evil-1/telemetry", TelemetryBatch(incarnation=1, sequence=1, applied=[rejected], user_notes=notes))
    send("POST", "/evil-1/proposals", {"settings": {"gamma2": 0.8}, "revision": 1, "reason": EVIL})
    send("POST", "/evil-1/schedules", {"from_step": 100, "settings": {"gamma2": 0.8}, "reason": EVIL})
    send("POST", "/evil-1/finish", {"state": "failed", "reason": EVIL})
    send("POST", "", RunRegistration(name=f"evil{EVIL}", run_id="evil-2", parameters=parameters))
    send("POST", "/evil-2/finish", {"state": "failed", "reason": EVIL})
    return "evil-1"


@pytest.mark.parametrize("command", ["show", "events", "audit", "notes", "schedules", "proposals", "runs", "doctor"])
def test_text_of_others_commands_no_terminal(steadynorm: Command, run_id: str, command: str) -> None:
    ended = steadynorm(command, *([] if command == "runs" else [run_id]))
    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout + ended.stderr
    assert "evil" in shown or "x1b" in shown or command == "doctor"
    assert [line for line in shown.splitlines() if not line.isprintable()] == []


@pytest.mark.usefixtures("run_id")
def test_text_of_others_in_a_refusal_commands_no_terminal(steadynorm: Command) -> None:
    ended = steadynorm("show", "evil")
    assert ended.returncode == 1
    assert [line.split()[0] for line in ended.stderr.splitlines()] == ["error:", "evil-2", "evil-1"]
    assert [line for line in ended.stderr.splitlines() if not line.isprintable()] == []
