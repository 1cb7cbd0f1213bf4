"""The runbook, docs/operations.md, by alert: what to do, with the run's name in the commands."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

__all__ = ["find", "titles"]

_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE / "operations.md", _HERE.parents[1] / "docs" / "operations.md")  # installed; of the checkout
_RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def titles() -> list[str]:
    """The alerts that have a section, in its order."""
    return list(_sections())


def find(alert: str, run_id: str | None = None) -> str | None:
    """The section's Markdown, with `run_id` for RUN in the commands. None: there is no such section.

    run_id comes from an address that anybody may have made: what is not a run's id leaves RUN as it is.
    """
    section = _sections().get(alert)
    if section is None or run_id is None or not _RUN_ID.fullmatch(run_id):
        return section
    return re.sub(r"`[^`]*`", lambda code: re.sub(r"\bRUN\b", run_id, code[0]), section)


@cache
def _sections() -> dict[str, str]:
    text = next(place for place in _PLACES if place.is_file()).read_text("utf-8")
    parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)[1:]
    return {title: _without_links(body).strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def _without_links(body: str) -> str:
    """Links lead nowhere from here: only one section is shown, and the other pages of docs/ are not served."""
    body = re.sub(r"\[([^\]]+)\]\(#\w+\)", r"**\1**", body)
    return re.sub(r"\[([^\]]+)\]\(([\w-]+\.md)\)", r"\1 (docs/\2)", body)
