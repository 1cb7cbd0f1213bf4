"""TODO from steadynorm_dashboard.charts.markers: change_words."""

from __future__ import annotations

from steadynorm_contract.audit import AuditEntry
from steadynorm_contract.fleet import LastChange
from steadynorm_dashboard.formatting.numbers import setting

__all__ = ["change_words"]


def change_words(entry: AuditEntry | LastChange) -> str:
    """`gamma2 0.999 → 0.99, mode observe → stabilize`."""
    actions = {"reset_generation": "statistics reset", "checkpoint_generation": "checkpoint asked for"}
    return ", ".join(
        actions.get(name) or f"{name} {setting(entry.before.get(name))} → {setting(value)}"
        for name, value in entry.after.items()
    )
