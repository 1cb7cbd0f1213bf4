"""The chart, rendered by Helm's own code and checked against Kubernetes' schemas."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from steadynorm_server.config import ServerConfig

VERSIONS = ("1.27", "1.37")  # the oldest that Chart.yaml allows, and the newest that there is
OF_OPERATORS = {"ServiceMonitor", "PrometheusRule"}  # whose schemas are the Prometheus operator's
OTHERS = {
    *("STEADYNORM_SERVER", "STEADYNORM_PUBLIC_SERVER", "STEADYNORM_GRAFANA_URL"),
    *("STEADYNORM_DASHBOARD_URL", "STEADYNORM_DASHBOARD_BASE_PATH"),
}
EVERYTHING = {
    "dashboardUrl": "https://steadynorm.example.org/norms",
    "publicServer": "https://steadynorm.example.org/api",
    "grafanaUrl": "https://grafana.example.org",
    "server": {
        "rootPath": "/api",
        "autoscaling": {"enabled": True},
        "image": {"digest": "sha256:" + "0" * 64},
        "otlpEndpoint": "http://collector:4318",
        "env": {"STEADYNORM_RETENTION_DAYS": 90},
    },
    "dashboard": {"basePath": "/norms"},
    "valkey": {"enabled": True, "storageClassName": "fast"},
    "ingress": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
}


def render(root: Path, values: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """The objects of a release called `demo`, by kind and name."""
    helm = importlib.import_module("helm_python")
    with helm.Chart.load(root / "deploy/helm/steadynorm") as chart:
        texts = chart.render(values=values, name="demo", namespace="norms")
    objects = [each for text in texts.values() for each in yaml.safe_load_all(text) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[tuple[str, str], Any]:
    """Everything that the chart can make."""
    return render(root, EVERYTHING)


def container(workload: Any) -> Any:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return found


def test_helm_has_no_complaint(root: Path) -> None:
    said = importlib.import_module("helm_python.chart").lint(root / "deploy/helm/steadynorm")
    assert said["errors"] == []
    assert [each["error"] for each in said["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_kubernetes(root: Path, whole: dict[tuple[str, str], Any], version: str) -> None:
    kubernetes = importlib.import_module("kubernetes_validate")
    least = render(root, {})
    assert {kind for kind, _ in least} == {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"}
    kinds = {kind for kind, _ in whole}
    assert kinds == {kind for kind, _ in least} | OF_OPERATORS | {"StatefulSet", "Ingress", "HorizontalPodAutoscaler"}
    for each in [*least.values(), *whole.values()]:
        if each["kind"] not in OF_OPERATORS:
            kubernetes.validate(each, version, strict=True)


def test_pods_run_without_privileges_and_are_asked_whether_they_live_by_what_needs_no_redis(
    whole: dict[tuple[str, str], Any],
) -> None:
    workloads = [each for (kind, _), each in whole.items() if kind in ("Deployment", "StatefulSet")]
    assert len(workloads) == 3
    for each in workloads:
        pod, ran = each["spec"]["template"]["spec"], container(each)
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert ran["securityContext"]["readOnlyRootFilesystem"] is True
        assert ran["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert ran["resources"]["limits"]["memory"]
    server, dashboard = (container(whole["Deployment", f"demo-{part}"]) for part in ("server", "dashboard"))
    assert server["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert dashboard["readinessProbe"]["httpGet"]["path"] == "/norms/_stcore/health"
    assert server["image"].endswith("@sha256:" + "0" * 64)


def test_every_variable_exists_and_addresses_fit_the_services(whole: dict[tuple[str, str], Any]) -> None:
    known = OTHERS | {f"STEADYNORM_{field}".upper() for field in ServerConfig.model_fields}
    variables = {
        part: {each["name"]: each.get("value") for each in container(whole["Deployment", f"demo-{part}"])["env"]}
        for part in ("server", "dashboard")
    }
    others = {"VALKEY_PASSWORD", "OTEL_EXPORTER_OTLP_ENDPOINT"}
    assert {name for part in variables.values() for name in part} - others <= known
    assert variables["server"]["STEADYNORM_OTLP"] == "true"
    assert variables["server"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert variables["dashboard"]["STEADYNORM_SERVER"] == "http://demo-server:8470"
    assert variables["server"]["STEADYNORM_REDIS_URL"] == "redis://:$(VALKEY_PASSWORD)@demo-valkey:6379/0"
    services = {name: each["spec"] for (kind, name), each in whole.items() if kind == "Service"}
    assert set(services) == {"demo-server", "demo-dashboard", "demo-valkey"}
    for name, service in services.items():
        pods = whole["StatefulSet" if name == "demo-valkey" else "Deployment", name]["spec"]["template"]
        assert service["selector"].items() <= pods["metadata"]["labels"].items()
        ports = {each["name"] for each in pods["spec"]["containers"][0]["ports"]}
        assert {each["targetPort"] for each in service["ports"]} <= ports
    paths = whole["Ingress", "demo"]["spec"]["rules"][0]["http"]["paths"]
    assert [(each["path"], each["backend"]["service"]["name"]) for each in paths] == [
        ("/api", "demo-server"), ("/norms", "demo-dashboard"),
    ]  # fmt: skip


def test_prometheus_scrapes_with_a_token_under_the_name_that_the_rules_know_and_has_all_of_them(
    root: Path, whole: dict[tuple[str, str], Any]
) -> None:
    monitor = whole["ServiceMonitor", "demo"]
    service = whole["Service", "demo-server"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "steadynorm"
    assert monitor["spec"]["endpoints"][0]["authorization"]["credentials"]["key"] == "STEADYNORM_VIEWER_TOKEN"
    rules = whole["PrometheusRule", "demo"]["spec"]
    assert rules == yaml.safe_load((root / "deploy/prometheus/rules.yml").read_text("utf-8"))
    for each in (monitor, whole["PrometheusRule", "demo"]):
        assert each["metadata"]["labels"]["release"] == "prometheus"


def test_an_ingress_without_a_path_for_the_server_is_refused(root: Path) -> None:
    with pytest.raises(Exception, match=r"ingress needs server\.rootPath"):
        render(root, {"ingress": {"enabled": True}})
