"""Dockerfile and Compose file, by the real tools. There is no Docker engine here, so images are not built."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(sys.executable).parent
SECRETS = (
    *("STEADYNORM_OPERATOR_TOKEN", "STEADYNORM_AGENT_TOKEN", "STEADYNORM_VIEWER_TOKEN"),
    *("GRAFANA_ADMIN_PASSWORD", "REDIS_PASSWORD"),
)


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


def load_sbom(root: Path) -> ModuleType:
    """scripts/sbom.py as a module."""
    spec = importlib.util.spec_from_file_location("sbom", root / "scripts/sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_compose_brings_up_the_whole_stack(services: dict[str, Any]) -> None:
    assert set(services) == {"redis", "server", "dashboard", "prometheus", "alertmanager", "grafana"}
    started = " ".join(services["redis"]["command"])
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction", "--requirepass"):
        assert option in started
    assert services["server"]["environment"]["STEADYNORM_METRICS_AUTH"] == "true"


def test_every_service_has_no_capabilities_a_read_only_root_a_memory_limit_and_bounded_logs(
    services: dict[str, Any],
) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"], name
        assert int(service["mem_limit"]) > 0, name
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}, name
        assert service["restart"] == "unless-stopped", name


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
    assert f"CMD [{command}" in stage


@pytest.mark.parametrize("image", ["server", "dashboard", "build"])
def test_what_an_image_installs_is_hashed_and_is_what_the_tests_run_with(root: Path, image: str) -> None:
    text = (root / f"deploy/requirements/{image}.txt").read_text("utf-8")
    packages = load_sbom(root).pinned(text)
    assert len(packages) == len(re.findall("==", text))
    assert all(hashes for _, _, hashes in packages)
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)", (root / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    installed = {name.lower(): version for name, version, _ in packages}
    assert {name: tested[name] for name in installed if name in tested} == {
        name: version for name, version in installed.items() if name in tested
    }, "run scripts/requirements"
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    wanted = project["build-system"]["requires"]
    if image != "build":
        extras = project["project"]["optional-dependencies"]
        wanted = project["project"]["dependencies"] + extras[image] + (extras["otlp"] if image == "server" else [])
    names = {re.split(r"[\[<>=~! ;]", each)[0].lower() for each in wanted} - {"steadynorm"}
    assert names <= set(installed), "run scripts/requirements"


@pytest.mark.parametrize("image", ["server", "dashboard"])
def test_the_bill_of_materials_is_cyclonedx_and_names_every_package(root: Path, image: str) -> None:
    bill = load_sbom(root).bill(image)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    known = {each["bom-ref"] for each in bill["components"]}
    assert set(bill["dependencies"][0]["dependsOn"]) == known
    assert len(known) == len((root / f"deploy/requirements/{image}.txt").read_text("utf-8").split("==")) - 1
    assert "pkg:pypi/msgspec@" in "".join(known)


@pytest.mark.parametrize("unit", ["steadynorm.service", "steadynorm-dashboard.service"])
def test_systemd_accepts_the_units(root: Path, tmp_path: Path, unit: str) -> None:
    text = (root / "deploy/systemd" / unit).read_text("utf-8")
    assert text.count("ExecStart=/opt/steadynorm/bin/") == 1
    (tmp_path / unit).write_text(text.replace("/opt/steadynorm/bin/", f"{TOOLS}/"))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = [line for line in ended.stderr.splitlines() if unit in line]
    assert said == []


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


def test_systemd_lets_the_server_end_its_own_processes_and_write_its_audit_stream(root: Path) -> None:
    lines = (root / "deploy/systemd/steadynorm.service").read_text("utf-8").splitlines()
    assert "KillMode=mixed" in lines  # by default the embedded store and each worker get SIGTERM at once
    assert "LogsDirectory=steadynorm" in lines
    assert "STEADYNORM_AUDIT_LOG=/var/log/steadynorm/" in (root / "docs/security.md").read_text("utf-8")
