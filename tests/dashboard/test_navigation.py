"""What an address may hold."""

from __future__ import annotations

import ast
from pathlib import Path

import steadynorm_dashboard
from steadynorm_dashboard import navigation


def test_an_address_keeps_exactly_the_parts_of_the_views() -> None:
    """A part that is not listed is removed from the address of a link that somebody opens."""
    parts = [
        node.args[0].value
        for path in Path(steadynorm_dashboard.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Part"
        if isinstance(node.args[0], ast.Constant)
    ]

    assert len(parts) > 15
    assert set(parts) == set(navigation.VIEW)
