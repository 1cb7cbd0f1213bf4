"""The settings that a stabilizer uses, of all that a run has."""

from __future__ import annotations

from typing import Any

from steadynorm_contract.settings import Settings

STABILIZER_SETTINGS = ("mode", "gamma1", "gamma2", "eps", "spike_limit", "spike_fade", "transfer", "clip_norm")
"""By name."""


def stabilizer_settings(settings: Settings) -> dict[str, Any]:
    """Those of `settings`, as the keyword arguments of a GradientStabilizer."""
    return {name: getattr(settings, name) for name in STABILIZER_SETTINGS}
