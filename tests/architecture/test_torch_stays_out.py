"""The server's image has no torch, and importing the agent does not load it before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HIDE_TORCH = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def loaded_by(modules: list[str]) -> set[str]:
    """Top-level names in sys.modules after importing `modules` in a fresh interpreter."""
    imports = "".join(f"import {name}\n" for name in modules)
    ended = python(imports + "import sys\nprint(*{name.partition('.')[0] for name in sys.modules})")
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


def modules_of(folder: Path) -> list[str]:
    """Dotted names of all importable modules below a package's folder, scripts that run on import left out."""
    names = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(folder.rglob("*.py"))
        if path.name not in ("__main__.py", "app.py") and "pages" not in path.relative_to(folder).parts
    ]
    assert len(names) > 5
    return names


def test_the_server_with_all_its_modules_loads_no_torch(root: Path) -> None:
    loaded = loaded_by([*modules_of(root / "server/steadynorm_server"), "steadynorm_server.app"])
    assert "torch" not in loaded
    assert "steadynorm" not in loaded
    assert {"pyarrow", "pandas"}.isdisjoint(loaded)  # they wait for the first export
    assert {"fastapi", "redis"} <= loaded, "the list of modules is not what it claims to be"


def test_the_dashboard_with_all_its_modules_loads_no_torch(root: Path) -> None:
    loaded = loaded_by(modules_of(root / "dashboard/steadynorm_dashboard"))
    assert "torch" not in loaded
    assert {"redis", "fastapi", "steadynorm_server"}.isdisjoint(loaded)
    assert "streamlit" in loaded, "the list of modules is not what it claims to be"


def test_importing_the_agent_loads_no_torch() -> None:
    assert "torch" not in loaded_by(["steadynorm"])


def test_listing_runs_loads_neither_the_web_stack_nor_torch() -> None:
    loaded = loaded_by(["steadynorm_cli.commands", "steadynorm_cli.commands.runs"])
    assert {"torch", "fastapi", "pydantic", "redis", "uvicorn", "streamlit", "pandas"}.isdisjoint(loaded)


@pytest.mark.parametrize("name", ["attach", "Agent", "GradientStabilizer"])
def test_without_torch_the_agent_says_what_to_install(name: str) -> None:
    ended = python(
        HIDE_TORCH + f"import steadynorm\ntry:\n    steadynorm.{name}\nexcept ImportError as e:\n    print(e)"
    )
    assert ended.returncode == 0, ended.stderr
    assert "pip install 'steadynorm[agent]'" in ended.stdout


def test_settings_and_client_need_no_torch() -> None:
    ended = python(HIDE_TORCH + "import steadynorm\nprint(steadynorm.Settings(gamma2=0.99).gamma2)")
    assert ended.stdout.strip() == "0.99", ended.stderr
    ended = python(HIDE_TORCH + "from steadynorm import Client\nprint(Client('http://127.0.0.1:9', 'token').server)")
    assert ended.stdout.strip() == "http://127.0.0.1:9", ended.stderr
