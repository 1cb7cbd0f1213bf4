"""The library that draws the charts: as its makers publish it, of the version that the figures are checked by."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import plotly

from steadynorm_dashboard.components.plotly_bundle import FILE

PUBLISHED = "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"
"""SHA-256 of plotly-cartesian.min.js in plotly.js-cartesian-dist-min 4.1.1."""


def version(source: bytes) -> str:
    found = re.search(rb"v(\d+\.\d+\.\d+)", source[:200])
    assert found is not None
    return found[1].decode()


def test_the_library_is_the_published_one_with_its_licence() -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == PUBLISHED
    assert "MIT" in FILE.with_name("LICENSE").read_text("utf-8")


def test_the_figures_are_checked_by_the_version_that_draws_them() -> None:
    whole = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    assert version(FILE.read_bytes()) == version(whole.read_bytes())
