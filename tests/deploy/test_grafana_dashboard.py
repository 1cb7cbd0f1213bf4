"""The Grafana dashboards are what their script makes, every panel explains itself, and every link leads somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

BUILT_IN = {"__all", "__rate_interval", "__data", "__field", "__url_time_range"}
KINDS = {"row", "stat", "table", "timeseries", "state-timeline"}


@pytest.fixture
def folder(root: Path) -> Path:
    """Where Grafana's files are."""
    return root / "deploy" / "grafana"


@pytest.fixture
def dashboards(folder: Path) -> dict[str, dict[str, Any]]:
    """Each dashboard by its uid."""
    read = [json.loads(file.read_text("utf-8")) for file in (folder / "dashboards").glob("*.json")]
    return {one["uid"]: one for one in read}


@pytest.fixture
def panels(dashboards: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """All panels that draw something."""
    found = [panel for one in dashboards.values() for panel in one["panels"] if panel["type"] != "row"]
    assert len(found) >= 35
    return found


def test_the_dashboards_are_what_their_script_makes(folder: Path) -> None:
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


def test_grafana_finds_what_its_schema_wants(dashboards: dict[str, dict[str, Any]]) -> None:
    assert set(dashboards) == {"steadynorm-fleet", "steadynorm-run"}
    for uid, one in dashboards.items():
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", uid)
        assert one["schemaVersion"] >= 39
        assert one["title"]
        ids = [panel["id"] for panel in one["panels"]]
        assert len(set(ids)) == len(ids)
        assert {panel["type"] for panel in one["panels"]} <= KINDS
        for panel in one["panels"]:
            steps = panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [])
            levels = [step["value"] for step in steps]
            assert levels[:1] in ([], [None]), f"{panel['title']}: the first threshold is the base"
            assert levels[1:] == sorted(levels[1:])


def test_every_variable_that_is_used_is_declared_and_every_declared_one_is_used(
    dashboards: dict[str, dict[str, Any]],
) -> None:
    for uid, one in dashboards.items():
        declared = {variable["name"] for variable in one["templating"]["list"]}
        found = re.findall(r"\$(?:\{(\w+)[^}]*\}|(\w+))", json.dumps(one))
        used = {braced or bare for braced, bare in found} - BUILT_IN
        assert used == declared, uid


def test_all_that_the_dashboard_of_one_run_asks_for_is_of_the_chosen_run(dashboards: dict[str, dict[str, Any]]) -> None:
    expressions = [
        target["expr"] for panel in dashboards["steadynorm-run"]["panels"] for target in panel.get("targets", [])
    ]
    assert len(expressions) >= 25
    for expr in expressions:
        metrics = re.findall(r"\b(?:steadynorm_\w+|ALERTS)\b(?!=)(\{[^}]*\})?", expr)
        assert metrics, expr
        assert all('run_id=~"$run_id"' in selector for selector in metrics), expr


def test_every_link_leads_to_a_dashboard_of_ours_or_to_a_page_of_steadynorm(
    dashboards: dict[str, dict[str, Any]],
) -> None:
    text = json.dumps(list(dashboards.values()))
    links = re.findall(r'"url": "([^"]+)"', text)
    assert any("/d/steadynorm-run" in link for link in links)
    for link in links:
        inside = re.match(r"/d/([\w-]+)\?", link)
        assert (inside and inside[1] in dashboards) or re.fullmatch(
            r"\$\{dashboard_url:raw\}(/\?(run|runbook)=\$\{[\w.]+\}(&run=\$\{run_id\})?)?", link
        ), link
    assert "${dashboard_url:raw}/?run=${run_id}" in links
    assert "${dashboard_url:raw}/?run=${__data.fields.run_id}" in links


def test_spikes_and_interventions_are_marked_on_the_runs_charts(dashboards: dict[str, dict[str, Any]]) -> None:
    marks = {mark["name"]: mark for mark in dashboards["steadynorm-run"]["annotations"]["list"]}
    assert {"spikes", "non-finite gradients", "changes requested", "changes applied", "alerts"} <= set(marks)
    assert all("$run_id" in mark["expr"] for mark in marks.values())
    assert len({mark["iconColor"] for mark in marks.values()}) == len(marks)


def test_no_two_panels_lie_over_each_other(dashboards: dict[str, dict[str, Any]]) -> None:
    for one in dashboards.values():
        taken: set[tuple[int, int]] = set()
        for panel in one["panels"]:
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
