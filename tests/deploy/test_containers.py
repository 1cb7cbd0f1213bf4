"""Dockerfile and Compose file, by the real tools. There is no Docker engine here, so images are not built."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(sys.executable).parent
SECRETS = ("STEADYNORM_OPERATOR_TOKEN", "STEADYNORM_AGENT_TOKEN", "STEADYNORM_VIEWER_TOKEN", "GRAFANA_ADMIN_PASSWORD")


def compose(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Docker Compose's own binary, with no variables but those."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(
        [str(TOOLS / "docker-compose"), "--env-file", os.devnull, *arguments],
        cwd=root, env={**kept, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def services(root: Path) -> dict[str, Any]:
    """The services as Compose understands them."""
    ended = compose(root, "config", "--format", "json", **dict.fromkeys(SECRETS, "secret"))
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)["services"]
    return found


def stages(root: Path) -> dict[str, str]:
    """The Dockerfile's text by stage."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", (root / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_hadolint_has_no_complaint(root: Path) -> None:
    ended = subprocess.run(
        [str(TOOLS / "hadolint"), "Dockerfile"], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")


def test_compose_accepts_the_file_when_every_secret_is_set(root: Path) -> None:
    ended = compose(root, "config", "--quiet", **dict.fromkeys(SECRETS, "secret"))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("missing", SECRETS)
def test_compose_refuses_to_start_without_a_secret(root: Path, missing: str) -> None:
    ended = compose(root, "config", "--quiet", **{name: "secret" for name in SECRETS if name != missing})
    assert ended.returncode != 0
    assert missing in ended.stderr


def test_the_example_of_the_environment_names_every_variable_of_the_compose_file(root: Path) -> None:
    asked = set(re.findall(r"\$\{(\w+)", (root / "docker-compose.yml").read_text("utf-8")))
    offered = set(re.findall(r"^(\w+)=", (root / ".env.example").read_text("utf-8"), re.MULTILINE))
    assert asked == offered
    assert set(SECRETS) <= asked


def test_compose_brings_up_the_whole_house(services: dict[str, Any]) -> None:
    assert set(services) == {"redis", "server", "dashboard", "prometheus", "grafana"}
    assert "--appendonly yes" in " ".join(services["redis"]["command"])
    assert services["server"]["environment"]["STEADYNORM_METRICS_AUTH"] == "true"


def test_no_port_is_published_beyond_loopback(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) >= 4
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}


def test_mounted_files_exist(root: Path, services: dict[str, Any]) -> None:
    volumes = [volume for service in services.values() for volume in service.get("volumes", [])]
    sources = [Path(volume["source"]) for volume in volumes if volume["type"] == "bind"]
    assert len(sources) >= 3
    assert all(source.is_dir() and source.is_relative_to(root) for source in sources)


@pytest.mark.parametrize(
    ("target", "command"),
    [("server", '"steadynorm", "server"'), ("dashboard", '"python", "-m", "steadynorm_dashboard"')],
)
def test_an_image_runs_as_an_unprivileged_user_and_reports_its_health(root: Path, target: str, command: str) -> None:
    stage = stages(root)[target]
    assert re.search(r"^USER [1-9]\d*$", stage, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", stage, re.MULTILINE)
    assert f"CMD [{command}," in stage


@pytest.mark.parametrize("extra", ["server", "dashboard"])
def test_what_an_image_installs_does_not_name_torch(root: Path, extra: str) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {extra}
    named = " ".join(project["dependencies"] + project["optional-dependencies"][extra])
    while added := set(re.findall(r"steadynorm\[(\w+)\]", named)) - extras:
        extras |= added
        named = " ".join([named, *(one for other in added for one in project["optional-dependencies"][other])])
    assert "msgspec" in named
    assert "torch" not in named
    assert extras <= {extra, "cli"}


def test_the_build_context_holds_what_the_dockerfile_copies(root: Path) -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (root / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    kept = {line[1:] for line in (root / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert len(names) >= 8
    assert names == kept
    assert all((root / name).exists() for name in names)
