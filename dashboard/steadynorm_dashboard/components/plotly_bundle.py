"""Plotly's library for the browser: where it lies, and at which address of the dashboard it is found."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["ADDRESS", "FILE"]

FILE = Path(__file__).parents[1] / "library" / "plotly-cartesian.min.js"
"""plotly.js-cartesian-dist-min 4.1.1 as its makers publish it: its traces are those that the figures here use. A third
of the whole library, which a browser that sees it for the first time reads for longer than a second."""

ADDRESS = f"library/{hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]}.js"
"""Relative to the dashboard's. It changes with the content, so that a browser may keep it for ever."""
