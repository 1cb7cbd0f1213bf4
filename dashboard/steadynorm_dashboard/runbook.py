"""The runbook, docs/operations.md, by alert, with the run's id in its commands; and the alert for each problem."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from steadynorm_contract.changes import parse_assignments
from steadynorm_contract.events import EventKind
from steadynorm_contract.runs import Health

ALERTS: dict[str, str] = {
    Health.SPIKING: "SteadynormSpikeStorm",
    Health.THROTTLED: "SteadynormThrottled",
    Health.NONFINITE: "SteadynormNonfinite",
    Health.STALLED: "SteadynormNotStepping",
    Health.DISCONNECTED: "SteadynormStalled",
    EventKind.SPIKE: "SteadynormSpikeStorm",
    EventKind.REJECTED: "SteadynormChangeNotApplied",
    EventKind.RANK_MISMATCH: "SteadynormRankMismatch",
    EventKind.ROLLBACK: "SteadynormRolledBack",
    EventKind.UNRECOVERABLE: "SteadynormUnrecoverable",
    EventKind.RANK_FAILED: "SteadynormAgentFailed",
    EventKind.AGENT_ERROR: "SteadynormAgentFailed",
}
"""The alert whose section applies to a run's health or to an event. Where a kind of event has the value of a health,
`throttled` for one, the alert is the same."""

_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE / "operations.md", _HERE.parents[1] / "docs" / "operations.md")  # in the wheel; in the checkout
_COMMAND = re.compile(r"`(steadynorm [^`]+)`")
_RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def titles() -> list[str]:
    """The alerts that have a section, in its order."""
    return list(_sections())


def find(alert: str, run_id: str | None = None) -> str | None:
    """The section's Markdown with `run_id` in place of RUN in the commands. None: there is no such section.

    run_id comes from a link that anyone may have written: RUN is kept unless it is a valid id.
    """
    section = _sections().get(alert)
    if section is None or run_id is None or not _RUN_ID.fullmatch(run_id):
        return section
    return re.sub(r"`[^`]*`", lambda code: re.sub(r"\bRUN\b", run_id, code[0]), section)


@dataclass(frozen=True, slots=True)
class Item:
    """A part of a section, such as one numbered remedy: its Markdown, and the commands in it."""

    text: str
    commands: tuple[str, ...]


def items(alert: str, run_id: str | None = None) -> list[Item]:
    """The section's parts in order, each with its `steadynorm` commands. Empty: there is no such section."""
    section = find(alert, run_id) or ""
    parts = [part.strip() for part in re.split(r"^(?=\d+\. |\*\*It worked)", section, flags=re.MULTILINE)]
    return [Item(part, tuple(dict.fromkeys(_COMMAND.findall(part)))) for part in parts if part]


def changes_of(command: str) -> dict[str, object]:
    """What a `steadynorm set` command changes, with increments as they are; empty for other commands."""
    words = command.partition(" --")[0].split()  # without its options, such as the reason
    return parse_assignments(" ".join(words[3:])) if words[:2] == ["steadynorm", "set"] and len(words) > 3 else {}


@cache
def _sections() -> dict[str, str]:
    text = next(place for place in _PLACES if place.is_file()).read_text("utf-8")
    parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)[1:]
    return {title: _without_links(body).strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def _without_links(body: str) -> str:
    """Replaces links by text: one section is shown alone, and the dashboard does not serve the other pages of docs/."""
    body = re.sub(r"\[([^\]]+)\]\(#[\w-]+\)", r"**\1**", body)
    return re.sub(r"\[([^\]]+)\]\(([\w-]+\.md(?:#[\w-]+)?)\)", r"\1 (docs/\2)", body)
