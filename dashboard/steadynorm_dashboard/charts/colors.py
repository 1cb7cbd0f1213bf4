"""The colours of all figures: each stands out from a white page and from a dark one, apart for any colour vision."""

from __future__ import annotations

__all__ = ["BAD", "LOOKS", "LOSS", "MEAN", "QUIET", "RAW", "RMS", "STABILIZED", "TARGET", "translucent"]

# Okabe and Ito's, mid-bright.
RAW = "#d55e00"
STABILIZED = "#1b85c4"
LOSS = "#009e73"
TARGET = "#b7649a"
QUIET = "#7b8794"
BAD = "#b3261e"
"""Not finite."""

MEAN, RMS = LOSS, STABILIZED
"""A parameter's statistics, beside its norm."""

LOOKS = (
    (STABILIZED, "solid"),
    (RAW, "dash"),
    (LOSS, "dot"),
    (TARGET, "dashdot"),
    ("#a08a00", "longdash"),
    (QUIET, "longdashdot"),
)
"""Colour and dash of things that are compared: told apart without colours too."""


def translucent(color: str, opacity: float = 0.22) -> str:
    """`color`, of the form #rrggbb, as a fill through which lines are seen."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
