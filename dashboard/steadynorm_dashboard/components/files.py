"""The scripts and style sheets of components, which lie beside them."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def text(*names: str) -> str:
    """The files' text, one after the other: what several scripts share is no request of its own."""
    return "".join(Path(__file__).with_name(name).read_text("utf-8") for name in names)
