"""Alerts: valid by promtool, each shown to fire and not to fire, each with something to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def folder(root: Path) -> Path:
    """Where the rules are."""
    return root / "deploy" / "prometheus"


@pytest.fixture
def alerts(folder: Path) -> list[dict[str, Any]]:
    """All alerting rules."""
    groups = yaml.safe_load((folder / "rules.yml").read_text("utf-8"))["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) >= 7
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
        # The token's file exists in the container only; the end-to-end test runs this configuration for real.
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_promtool_accepts(folder: Path, arguments: list[str]) -> None:
    ended = subprocess.run(
        ["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_alert_is_shown_to_fire_and_not_to_fire(folder: Path, alerts: list[dict[str, Any]]) -> None:
    cases = yaml.safe_load((folder / "rules_test.yml").read_text("utf-8"))["tests"]
    for name in (alert["alert"] for alert in alerts):
        fires = stays_quiet = False
        for case in cases:
            runs = {match[1] for one in case["input_series"] if (match := re.search(r'run_id="(.+?)"', one["series"]))}
            for check in case["alert_rule_test"]:
                if check["alertname"] == name:
                    fires |= bool(check["exp_alerts"])
                    stays_quiet |= not check["exp_alerts"] or len(runs) > len(check["exp_alerts"])
        assert fires, f"{name}: no case in which it fires"
        assert stays_quiet, f"{name}: no case, or run beside the one that fires, in which it stays quiet"


def test_every_alert_says_how_bad_what_and_what_to_do(root: Path, alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        assert alert["alert"].startswith("Steadynorm")
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        headings = {
            line[3:].strip().lower() for line in (root / page).read_text("utf-8").splitlines() if line[:3] == "## "
        }
        assert anchor == alert["alert"].lower()
        assert anchor in headings, f"{page} says nothing about {alert['alert']}"
