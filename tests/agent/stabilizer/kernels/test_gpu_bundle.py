"""What is carried to a GPU has all that it imports."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

GIVEN = {"torch", "triton"}  # a machine with a GPU has them
OPTIONAL = {
    "lightning",
    "mlflow",
    "stable_baselines3",
    "tensorboard",
    "trackio",
    "transformers",
    "wandb",
}  # where a user asks for them


@pytest.fixture
def gpu_bundle(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/gpu_bundle.py"""
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath / "benchmarks"))
    return importlib.import_module("gpu_bundle")


def test_a_gpu_bundle_imports_nothing_that_it_does_not_carry(gpu_bundle: ModuleType, tmp_path: Path) -> None:
    gpu_bundle.make(tmp_path / "gpu", wheels=False)
    modules = list((tmp_path / "gpu").rglob("*.py"))
    carried = {"steadynorm", "steadynorm_contract", *(Path(script).stem for script in gpu_bundle.SCRIPTS)}
    known = carried | GIVEN | OPTIONAL | set(gpu_bundle.REQUIREMENTS) | sys.stdlib_module_names
    strange = {
        (str(module.relative_to(tmp_path / "gpu")), name)
        for module in modules
        for name in _imported(ast.parse(module.read_text()))
        if name not in known
    }

    assert len(modules) > 100
    assert strange == set()
    subprocess.run(["bash", "-n", tmp_path / "gpu" / "run.sh"], check=True)


def test_a_gpu_bundle_carries_wheels_of_all_that_the_package_requires(gpu_bundle: ModuleType) -> None:
    project = tomllib.loads((gpu_bundle.ROOT / "pyproject.toml").read_text())["project"]
    assert [requirement.partition(">")[0] for requirement in project["dependencies"]] == list(gpu_bundle.REQUIREMENTS)


def _imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found
