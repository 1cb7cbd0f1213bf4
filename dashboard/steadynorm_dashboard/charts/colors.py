"""The colors of all figures: visible on light and dark pages, distinguishable with any kind of color vision."""

from __future__ import annotations

# Okabe and Ito's palette, in mid-tones.
RAW = "#d55e00"
STABILIZED = "#1b85c4"
LOSS = "#009e73"
TARGET = "#b7649a"
QUIET = "#7b8794"
BAD = "#d0463c"
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


BAND, COMPARED_BAND, ZONE = 0.35, 0.22, 0.22
"""Opacities: of a band, seen at least as well as the grid; of one that others lie over; of a zone, which is large."""


def translucent(color: str, opacity: float) -> str:
    """`color`, of the form #rrggbb, as a translucent fill."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
