"""Plotly's library for the browser: its file and its address on the dashboard's server."""

from __future__ import annotations

import hashlib
from pathlib import Path

FILE = Path(__file__).parents[1] / "library" / "plotly-cartesian.min.js"
"""plotly.js-cartesian-dist-min 4.1.1, unmodified: it has the trace types that the figures use in a third of the size of
the whole library, which a browser parses for more than a second on the first visit."""

ADDRESS = f"library/{hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]}.js"
"""Relative to the dashboard's address. It changes with the content, so that browsers can cache it indefinitely."""
