"""What a release holds, and that the wheel works in clean environments: each extra alone brings what its part needs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from tests.packaging.conftest import Built, CleanEnvironment

from steadynorm_contract import __version__

WEB = ("fastapi", "uvicorn", "redis", "streamlit", "typer")
IMPORT_ALL = """
import importlib, pkgutil, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    if not module.name.endswith(("__main__", "{package}.app")) and ".pages" not in module.name:
        importlib.import_module(module.name)
import sys
print(sum(name.startswith("{package}.") for name in sys.modules))
"""


@pytest.fixture(scope="module")
def metadata(built: Built) -> Message:
    """The wheel's metadata, with the long description as its payload."""
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(wheel.read(name))


def test_the_source_distribution_has_neither_images_nor_the_studys_rows(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = ["/".join(Path(name).parts[1:]) for name in archive.getnames()]
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= set(names)
    assert not [name for name in names if name.endswith((".png", ".csv")) or name.startswith(("research", "tests"))]


def test_the_wheel_has_the_five_packages_the_runbook_and_the_demos_training(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = set(wheel.namelist())
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    contract = {"steadynorm_contract", "steadynorm", "steadynorm_server", "steadynorm_dashboard", "steadynorm_cli"}
    assert packages == contract
    assert {f"{package}/py.typed" for package in contract - {"steadynorm_cli"}} <= names
    examples = {f"steadynorm_cli/examples/{name}.py" for name in ("char_gpt", "poisoned_gpt")}
    assert {"steadynorm_dashboard/operations.md", *examples} <= names


def test_the_version_is_the_packages_own(metadata: Message) -> None:
    assert metadata["Version"] == __version__


def test_the_long_description_is_the_readme_with_absolute_links(root: Path, metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)\s]+)|(?:src|srcset|href)=\"([^\"]+)", text)
    targets = [link or attribute for link, attribute in links]
    assert (root / "README.md").read_text("utf-8").splitlines()[0] in text
    assert len(targets) > 5
    assert [target for target in targets if not target.startswith(("https://", "http://", "#"))] == []


def test_the_package_index_takes_both(built: Built) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(built.wheel), str(built.sdist)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout


def test_without_an_extra_there_is_the_client_and_each_other_part_says_what_to_install(
    install: Callable[..., CleanEnvironment],
) -> None:
    base = install()
    base.python("from steadynorm import Client; Client('http://127.0.0.1:9', 'token')")
    base.python("import steadynorm; steadynorm.Settings(gamma2=0.99)")
    assert not any(base.has(module) for module in (*WEB, "torch", "numpy"))
    ended = base.run("python", "-c", "import steadynorm; steadynorm.attach")
    assert "pip install 'steadynorm[agent]'" in ended.stderr
    ended = base.run("steadynorm", "--help")
    assert ended.returncode == 1
    assert "pip install 'steadynorm[cli]'" in ended.stderr


def test_the_agents_extra_stabilizes_a_training_and_brings_no_web_stack(
    install: Callable[..., CleanEnvironment],
) -> None:
    agent = install("agent")
    code = (
        "import torch, steadynorm; model = torch.nn.Linear(3, 2); "
        "stabilizer = steadynorm.GradientStabilizer(model.named_parameters(), gamma2=0.99); "
        "model(torch.ones(1, 3)).sum().backward(); stabilizer.apply(); print(stabilizer.rows.shape[0])"
    )
    assert agent.python(code) == "2\n"
    assert not any(agent.has(module) for module in WEB)


def test_the_command_lines_extra_shows_its_commands_and_says_what_the_server_needs(
    install: Callable[..., CleanEnvironment],
) -> None:
    cli = install("cli")
    ended = cli.run("steadynorm", "--help")
    assert ended.returncode == 0, ended.stderr
    assert "set-many" in ended.stdout
    assert not any(cli.has(module) for module in ("fastapi", "redis", "streamlit", "torch"))
    ended = cli.run("steadynorm", "server", "--port", "0")
    assert ended.returncode == 1
    assert "pip install 'steadynorm[server]'" in ended.stderr


def test_the_servers_extra_has_all_that_the_server_imports_and_its_command(
    install: Callable[..., CleanEnvironment],
) -> None:
    server = install("server")
    assert int(server.python(IMPORT_ALL.format(package="steadynorm_server"))) > 50
    assert server.run("steadynorm", "server", "--help").returncode == 0
    assert not any(server.has(module) for module in ("torch", "streamlit"))


def test_the_dashboards_extra_needs_neither_the_servers_code_nor_the_command_line(
    install: Callable[..., CleanEnvironment],
) -> None:
    dashboard = install("dashboard")
    for package in ("steadynorm_server", "steadynorm_cli", "steadynorm"):
        shutil.rmtree(dashboard.site_packages / package)
    assert int(dashboard.python(IMPORT_ALL.format(package="steadynorm_dashboard"))) > 30
    ended = dashboard.run("python", "-m", "steadynorm_dashboard", "--help")
    assert ended.returncode == 0, ended.stderr
    assert not any(dashboard.has(module) for module in ("torch", "fastapi", "redis", "typer"))
