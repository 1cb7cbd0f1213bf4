"""Plotly's library for the browser: its file and its address on the dashboard's server."""

from __future__ import annotations

import hashlib
from pathlib import Path

FILE = Path(__file__).parents[1] / "library" / "plotly.min.js"
"""plotly.js 4.1.1 with the trace types that the figures use: what `scripts/plotly/build.js` writes. A browser's first
visit parses it in half of the time of the smallest published bundle that has them."""

ADDRESS = f"library/{hashlib.sha256(FILE.read_bytes()).hexdigest()[:16]}.js"
"""Relative to the dashboard's address. It changes with the content, so that browsers can cache it indefinitely."""
