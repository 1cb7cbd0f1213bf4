"""What a visitor clicked in a table."""

from __future__ import annotations

from typing import Any

__all__ = ["chosen_row"]


def chosen_row(picked: Any) -> int | None:
    """The row of a table with `selection_mode` single-row or single-cell; None: none is chosen. Any cell will do."""
    selection = picked.get("selection", {}) if picked else {}
    rows, cells = selection.get("rows") or [], selection.get("cells") or []
    if rows:
        return int(rows[0])
    return int(cells[0][0]) if cells else None
