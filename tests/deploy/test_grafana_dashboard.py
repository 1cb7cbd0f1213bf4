"""The Grafana dashboard is what its script makes, and every panel explains itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def folder(root: Path) -> Path:
    """Where Grafana's files are."""
    return root / "deploy" / "grafana"


@pytest.fixture
def panels(folder: Path) -> list[dict[str, Any]]:
    """All panels that draw something."""
    dashboard = json.loads((folder / "dashboards" / "steadynorm.json").read_text("utf-8"))
    found = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(found) >= 15
    return found


def test_the_dashboard_is_what_its_script_makes(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(folder / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_every_panel_has_a_title_a_unit_an_explanation_and_a_query(panels: list[dict[str, Any]]) -> None:
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["expr"] for target in panel["targets"]), panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_chart_of_runs_follows_the_chosen_runs_and_links_to_their_page(panels: list[dict[str, Any]]) -> None:
    charts = [one for one in panels if one["type"] == "timeseries"]
    of_runs = [one for one in charts if any("$run_id" in target["expr"] for target in one["targets"])]
    assert len(of_runs) >= 10
    for chart in of_runs:
        assert all("$run_id" in target["expr"] for target in chart["targets"]), chart["title"]
        links = chart["fieldConfig"]["defaults"]["links"]
        assert any("?run=${__field.labels.run_id}" in link["url"] for link in links), chart["title"]


def test_no_two_panels_lie_over_each_other(panels: list[dict[str, Any]]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells


def test_provisioning_points_to_where_compose_mounts_the_files(root: Path, folder: Path) -> None:
    provider = yaml.safe_load((folder / "provisioning/dashboards/steadynorm.yml").read_text("utf-8"))["providers"][0]
    mounts = yaml.safe_load((root / "docker-compose.yml").read_text("utf-8"))["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in mounts
    source = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text("utf-8"))["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
