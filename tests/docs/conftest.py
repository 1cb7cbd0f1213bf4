"""The module that generates the reference, and the site as it is built."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.local_server import RunningStack

LoadScript = Callable[[str], ModuleType]


@pytest.fixture(scope="session")
def load_script(root: Path) -> LoadScript:
    """load_script("docs_reference") -> `scripts/docs_reference.py` as a module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, root / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def reference(load_script: LoadScript) -> ModuleType:
    """`scripts/docs_reference.py`."""
    return load_script("docs_reference")


@pytest.fixture(scope="session")
def generated(reference: ModuleType) -> dict[str, str]:
    """The generated pages, by path."""
    pages: dict[str, str] = reference.pages()
    return pages


@pytest.fixture(scope="session")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, built as `scripts/docs` builds it: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=root, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture
def here(stack: RunningStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunningStack:
    """The server, found as a user's program finds it, from a folder of this test's own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("STEADYNORM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STEADYNORM_HOME", str(stack.home))
    monkeypatch.setenv("STEADYNORM_SERVER", stack.server)
    monkeypatch.setattr(
        "steadynorm.transport.publisher.CLOSE_IDLE_S", 15.0
    )  # machines of tests stand still now and then
    return stack
