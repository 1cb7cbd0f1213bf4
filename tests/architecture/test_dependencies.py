"""What import-linter cannot hold: third-party imports are declared, in the extra of the package that needs them."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

EXTRAS = {
    "contract/steadynorm_contract": [],
    "agent/steadynorm": ["agent"],
    "server/steadynorm_server": ["server"],
    "dashboard/steadynorm_dashboard": ["dashboard"],
    "cli/steadynorm_cli": [
        "cli",
        "server",
        "mcp",
    ],  # what it takes of the server's extra it loads when a command needs it
}
"""Which extras, beside the base dependencies, the files of a package may import from."""
INTEGRATIONS = {
    "agent/steadynorm/integrations/lightning.py": ["lightning"],
    "agent/steadynorm/integrations/stable_baselines3.py": ["stable-baselines3"],
    "agent/steadynorm/integrations/transformers.py": ["transformers"],
    "agent/steadynorm/sinks/mlflow.py": ["mlflow"],
    "agent/steadynorm/sinks/tensorboard.py": ["tensorboard"],
    "agent/steadynorm/sinks/trackio.py": ["trackio"],
    "agent/steadynorm/sinks/wandb.py": ["wandb"],
    "server/steadynorm_server/otlp/encoding.py": ["otlp"],
    "server/steadynorm_server/otlp/sender.py": ["otlp"],
}
COMES_WITH = {
    "triton": "torch",
    "opentelemetry-api": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry-sdk": "opentelemetry-exporter-otlp-proto-http",
}
"""Distributions that another brings along: CUDA builds of torch pin the Triton that they were built for."""
DOCUMENTED = {"_logs", "_log_exporter"}
"""OpenTelemetry's modules of logs, which are named so while that signal is young."""
FIRST_PARTY = {Path(folder).name for folder in EXTRAS}


@cache
def declared(root: Path) -> dict[str, set[str]]:
    """Names of the distributions that each extra asks for; those of "" are always installed."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return {
        extra: {distribution(requirement) for requirement in requirements}
        for extra, requirements in {"": project["dependencies"], **project["optional-dependencies"]}.items()
    }


def distribution(requirement: str) -> str:
    """The normalized name at the start of a requirement."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def sources(root: Path, package: str) -> list[Path]:
    """All Python files of a package."""
    found = sorted((root / package).rglob("*.py"))
    assert found, f"{package} holds no Python at all"
    return found


def imported(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """Line, module and imported names of every import, those in functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield node.lineno, node.module or "", [alias.name for alias in node.names]


def third_party(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Those imports of a file that come from neither the standard library nor this repository."""
    for line, module, names in imported(ast.parse(path.read_text("utf-8"))):
        if module.partition(".")[0] not in FIRST_PARTY | sys.stdlib_module_names:
            yield line, module, names


@pytest.mark.parametrize("package", EXTRAS)
def test_what_a_package_imports_is_declared_in_its_extra(root: Path, package: str) -> None:
    providers = packages_distributions()
    undeclared = []
    for path in sources(root, package):
        name = path.relative_to(root).as_posix()
        extras = ["", *EXTRAS[package], *INTEGRATIONS.get(name, [])]
        allowed = set().union(*(declared(root)[extra] for extra in extras))
        for line, module, _ in third_party(path):
            top = module.partition(".")[0]
            provided_by = {distribution(provider) for provider in providers.get(top, [top])}
            provided_by |= {COMES_WITH[provider] for provider in provided_by & COMES_WITH.keys()}
            if not provided_by & allowed:
                undeclared.append(f"{name}:{line} imports {module}, which the extras {extras} do not declare")
    assert undeclared == []


@pytest.mark.parametrize("package", EXTRAS)
def test_no_private_name_of_a_third_party_is_imported(root: Path, package: str) -> None:
    private = [
        f"{path.relative_to(root)}:{line} imports {', '.join(names) or module} of {module}"
        for path in sources(root, package)
        for line, module, names in third_party(path)
        if any(is_private(part) for part in [*module.split("."), *names])
    ]
    assert private == []


def is_private(name: str) -> bool:
    """Whether a name begins with one underscore, and is not one that its project documents."""
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def test_these_tests_see_an_import_inside_a_function() -> None:
    tree = ast.parse("def f():\n    from torch import _C\n    import steadynorm.agent as a, json\n")
    assert list(imported(tree)) == [(2, "torch", ["_C"]), (3, "steadynorm.agent", []), (3, "json", [])]
