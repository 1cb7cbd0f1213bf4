"""The library that draws the charts: as its build writes it, of the version that the figures are checked by."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import plotly

from steadynorm_dashboard import charts
from steadynorm_dashboard.components.plotly_bundle import FILE

BUILT = "08f0a41778fa9361627d7878bbfb55e446b2419adf91c896f91c9ab00e4f448e"
"""SHA-256 of what `scripts/plotly/build.js` writes."""
PACKAGES = Path(__file__).parents[3] / "scripts" / "plotly"


def version(source: bytes) -> str:
    found = re.search(rb"v(\d+\.\d+\.\d+)", source[:200])
    assert found is not None
    return found[1].decode()


def test_the_library_is_what_its_build_writes_with_its_licence() -> None:
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == BUILT
    assert "MIT" in FILE.with_name("LICENSE").read_text("utf-8")


def test_its_build_takes_the_same_packages_each_time() -> None:
    asked = json.loads((PACKAGES / "package.json").read_bytes())["dependencies"]
    found = json.loads((PACKAGES / "package-lock.json").read_bytes())["packages"]
    assert {name: found[f"node_modules/{name}"]["version"] for name in asked} == asked
    assert all("integrity" in package for name, package in found.items() if name)


def test_the_figures_are_checked_by_the_version_that_draws_them() -> None:
    whole = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    assert version(FILE.read_bytes()) == version(whole.read_bytes())


def test_it_has_the_traces_that_the_figures_use() -> None:
    code = "".join(path.read_text("utf-8") for path in Path(charts.__file__).parent.glob("*.py"))
    used = set(re.findall(r'"type": "(scatter|bar|heatmap|histogram|contour|box|violin|pie|image)"', code))
    named = re.search(r"\((.+)\)", FILE.read_text("utf-8")[:200])
    assert named is not None
    assert used == set(named[1].split(", "))
