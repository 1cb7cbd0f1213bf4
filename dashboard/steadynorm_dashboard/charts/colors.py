"""The colors of all figures: visible on light and dark pages, distinguishable with any kind of color vision."""

from __future__ import annotations

# Okabe and Ito's palette, in mid-tones.
RAW = "#d55e00"
STABILIZED = "#1b85c4"
LOSS = "#009e73"
TARGET = "#b7649a"
QUIET = "#7b8794"
BAD = "#b3261e"
"""Non-finite values."""

MEAN, RMS = LOSS, STABILIZED
"""A parameter's statistics, drawn with its norm."""

LINE_STYLES = (
    (STABILIZED, "solid"),
    (RAW, "dash"),
    (LOSS, "dot"),
    (TARGET, "dashdot"),
    ("#a08a00", "longdash"),
    (QUIET, "longdashdot"),
)
"""Color and dash of lines that are compared: distinguishable without color too."""


def translucent(color: str, opacity: float = 0.22) -> str:
    """`color`, of the form #rrggbb, as a translucent fill."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
