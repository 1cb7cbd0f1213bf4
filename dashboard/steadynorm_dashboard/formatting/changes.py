"""Settings changes in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.fleet import LastChange
from steadynorm_dashboard.formatting import escaping
from steadynorm_dashboard.formatting.numbers import setting


def change_words(entry: AuditEntry | LastChange) -> str:
    """`gamma2 0.999 → 0.99, mode observe → stabilize`. Not escaped."""
    actions = {
        "reset_generation": "statistics reset",
        "checkpoint_generation": "checkpoint requested",
        "rollback_generation": "rollback requested",
    }
    return ", ".join(
        actions.get(name) or f"{name} {setting(entry.before.get(name))} → {setting(value)}"
        for name, value in entry.after.items()
    )


def change_lines(before: Mapping[str, object], after: Iterable[tuple[str, object]]) -> str:
    """Markdown with a line `gamma2: 0.999 → **0.99**` for each setting."""
    return "  \n".join(
        "{}: {} → **{}**".format(*map(escaping.markdown, (name, setting(before[name]), setting(value))))
        for name, value in after
    )


def assignments(settings: Mapping[str, object]) -> str:
    """`gamma2 = 0.999, mode = observe`. Not escaped."""
    return ", ".join(f"{name} = {setting(value)}" for name, value in settings.items())
