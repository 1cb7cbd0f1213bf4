"""The manifests parse, and name variables, probes and ports that the server and the agent have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tests.docs.conftest import LoadScript

from steadynorm_server.config import ServerConfig

OF_AGENTS_AND_DASHBOARD = {"STEADYNORM_SERVER", "STEADYNORM_TOKEN", "STEADYNORM_RUN"}


def documents(root: Path, name: str) -> dict[tuple[str, str], Any]:
    """The objects of a manifest, by kind and name."""
    text = (root / "examples" / "kubernetes" / f"{name}.yml").read_text("utf-8")
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


def test_the_variables_exist(root: Path) -> None:
    of_server = {f"STEADYNORM_{field}".upper() for field in ServerConfig.model_fields}
    found = set()
    for name in ("server", "training-job"):
        for (kind, _), each in documents(root, name).items():
            if kind in ("Deployment", "Job"):
                (container,) = each["spec"]["template"]["spec"]["containers"]
                found |= {variable["name"] for variable in container.get("env", [])}
    assert {"STEADYNORM_TLS", "STEADYNORM_RUN"} <= found
    assert found <= of_server | OF_AGENTS_AND_DASHBOARD


def test_the_probes_are_routes_that_need_no_token(root: Path, load_script: LoadScript) -> None:
    (container,) = documents(root, "server")["Deployment", "steadynorm"]["spec"]["template"]["spec"]["containers"]
    paths = load_script("docs_reference").openapi()["paths"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert not paths[container[probe]["httpGet"]["path"]]["get"].get("security")


def test_services_select_pods_and_the_job_calls_the_service(root: Path) -> None:
    server = documents(root, "server")
    for name in ("steadynorm", "steadynorm-dashboard"):
        service, pods = server["Service", name], server["Deployment", name]["spec"]["template"]
        assert service["spec"]["selector"] == pods["metadata"]["labels"]
        (container,), (port,) = pods["spec"]["containers"], service["spec"]["ports"]
        assert port["targetPort"] == container["ports"][0]["containerPort"]
    policy = server["NetworkPolicy", "steadynorm"]["spec"]
    assert policy["podSelector"]["matchLabels"] == server["Service", "steadynorm"]["spec"]["selector"]
    job = documents(root, "training-job")["Job", "gpt-small"]["spec"]["template"]["spec"]["containers"][0]
    address = next(each["value"] for each in job["env"] if each["name"] == "STEADYNORM_SERVER")
    assert address == "http://steadynorm.steadynorm.svc:8470"
