"""A real Prometheus scrapes the server while a job trains: every alert rule and every Grafana panel is evaluated."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import urllib3
import yaml

from steadynorm_cli.ports import choose_port
from steadynorm_contract.telemetry import (
    AgentNote,
    NoteKind,
    Registered,
    RunEnd,
    RunFinish,
    RunRegistration,
    TelemetryBatch,
)

if TYPE_CHECKING:
    from tests.support.jobs import Job, RunJob, StartJob
    from tests.support.local_server import RunningStack


@dataclass
class Prometheus:
    """The Debian package's binary with deploy/prometheus, pointed at the test's server."""

    address: str

    def get(self, path: str, **query: str) -> Any:
        """`data` of an API answer. Fails when Prometheus refuses the query."""
        answer = urllib3.request(
            "GET", f"{self.address}/api/v1/{path}", fields=query, timeout=20.0, retries=False
        ).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        return answer["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """An instant query's samples."""
        result = self.get("query", query=expr)["result"]
        assert isinstance(result, list)
        return result

    def firing(self) -> set[tuple[str, str]]:
        """(alert, run_id) of everything that fires."""
        alerts = self.get("alerts")["alerts"]
        return {
            (one["labels"]["alertname"], one["labels"].get("run_id", "")) for one in alerts if one["state"] == "firing"
        }


@pytest.fixture(scope="module")
def prometheus(
    root: Path, stack: RunningStack, tmp_path_factory: pytest.TempPathFactory, eventually: Any
) -> Iterator[Prometheus]:
    """Scrapes and waits for a quarter of a second instead of minutes; the expressions are deploy/prometheus' own."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((root / "deploy/prometheus/prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
    (job,) = config["scrape_configs"]
    (folder / "token").write_text(stack.token, "ascii")
    job["authorization"]["credentials_file"] = str(folder / "token")
    job["static_configs"] = [{"targets": [stack.server.removeprefix("http://")]}]
    rules = yaml.safe_load((root / "deploy/prometheus/rules.yml").read_text("utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        rule["for"] = "250ms"
    (folder / "rules.yml").write_text(yaml.safe_dump(rules), "utf-8")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), "utf-8")
    checked = subprocess.run(
        ["promtool", "check", "config", str(folder / "prometheus.yml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr

    address = f"127.0.0.1:{choose_port('127.0.0.1', 0, 0, print)}"
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={address}", "--log.level=warn",
            ],
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        running = Prometheus(f"http://{address}")

        def scraped() -> bool:
            assert process.poll() is None, log.read_text("utf-8")
            try:
                return bool(running.query('up{job="steadynorm"} == 1'))
            except (urllib3.exceptions.HTTPError, json.JSONDecodeError):  # it is not up yet
                return False

        eventually(scraped)
        yield running
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def job(stack: RunningStack, prometheus: Prometheus, run_job: RunJob, eventually: Any) -> Iterator[Job]:
    """A job that trains, of which Prometheus has seen several scrapes, before and after a change."""
    with run_job(stack, "scraped", detail_every=5) as running:
        selector = f'{{run_id="{running.run_id}"}}'
        eventually(lambda: prometheus.query(f"count_over_time(steadynorm_run_step{selector}[1m]) >= 3"))
        stack.client.change(running.run_id, {"gamma2": 0.99}, revision=0, reason="to be scraped")
        eventually(lambda: prometheus.query(f"steadynorm_settings_applied_revision{selector} == 1"))
        eventually(lambda: prometheus.query(f"steadynorm_parameter_spike_ratio{selector}"))
        yield running


VARIABLES = {
    "$run_id": ".+",
    "$run": ".+",
    "$parameter": ".+",
    "$__rate_interval": "30s",
}
"""As Grafana fills them in for all runs."""


def expressions(root: Path) -> dict[str, str]:
    """Every expression of the Grafana dashboards: by panel and letter, annotation, or variable."""
    found: dict[str, str] = {}
    for name in ("fleet", "run"):
        dashboard = json.loads((root / f"deploy/grafana/dashboards/{name}.json").read_text("utf-8"))
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                found[f"{name}, {panel['title']} {target['refId']}"] = target["expr"]
        for mark in dashboard["annotations"]["list"]:
            found[f"{name}, annotation {mark['name']}"] = mark["expr"]
        for variable in dashboard["templating"]["list"]:
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", ""))
            if asked and variable["name"] != "dashboard_url":  # this stack has no dashboard to lead to
                found[f"{name}, variable {variable['name']}"] = f"count by ({asked[2]}) ({asked[1]})"
    for unset, value in VARIABLES.items():
        found = {name: expr.replace(unset, value) for name, expr in found.items()}
    return found


class TornRun:
    """A run, as its agent's messages make it, in which a rank begins to differ with every batch."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack
        registered = self._post("/runs", msgspec.json.encode(RunRegistration(name="torn", world_size=4)))
        self._run = msgspec.json.decode(registered, type=Registered)
        self._sequence = 0

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    def differ(self) -> None:
        """One more batch."""
        self._sequence += 1
        note = AgentNote(NoteKind.RANK_MISMATCH, self._sequence, time.time(), 3, "rank 3 differs.")
        batch = TelemetryBatch(incarnation=self._run.incarnation, sequence=self._sequence, notes=[note])
        self._post(f"/runs/{self._run.run_id}/telemetry", msgspec.msgpack.encode(batch), "application/msgpack")

    def end(self) -> None:
        """Finish the run."""
        self._post(f"/runs/{self._run.run_id}/finish", msgspec.json.encode(RunFinish(RunEnd.FINISHED)))

    def _post(self, path: str, body: bytes, kind: str = "application/json") -> bytes:
        headers = {"Authorization": f"Bearer {self._stack.token}", "Content-Type": kind}
        answer = urllib3.request("POST", f"{self._stack.server}/api/v1{path}", body=body, headers=headers)
        assert answer.status < 300, answer.data
        return answer.data


@pytest.fixture
def torn(stack: RunningStack) -> Iterator[TornRun]:
    """A TornRun of the test's own."""
    run = TornRun(stack)
    yield run
    run.end()


def test_every_grafana_expression_gets_data_while_all_of_it_happens(
    root: Path, stack: RunningStack, prometheus: Prometheus, job: Job, torn: TornRun, eventually: Any
) -> None:
    waiting = expressions(root)
    assert len(waiting) >= 60
    job.spike.set()
    eventually(lambda: stack.client.run(job.run_id).counters.spikes)  # in one step, NaN would hide it
    job.poison.set()

    def all_answered() -> bool:
        torn.differ()
        for name, expr in list(waiting.items()):
            assert "$" not in expr, f"{name}: a variable that this test does not know"
            if prometheus.query(expr):
                del waiting[name]
        return not waiting

    try:
        eventually(all_answered, within_s=45)
    except AssertionError as error:
        raise AssertionError(f"no data for {waiting}") from error


def test_every_alert_rule_is_loaded_and_evaluates(
    root: Path, prometheus: Prometheus, job: Job, eventually: Any
) -> None:
    text = (root / "deploy/prometheus/rules.yml").read_text("utf-8")
    names = set(re.findall(r"- (?:alert|record): ([\w:]+)", text))

    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return rules if all(rule["lastEvaluation"] > "2000" for rule in rules) else []

    rules = eventually(evaluated)
    assert {rule["name"] for rule in rules} == names
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
    metrics = set(re.findall(r"\bsteadynorm_\w+", " ".join(rule["query"] for rule in rules)))
    assert len(metrics) >= 7
    elsewhere = {"steadynorm_webhook_deliveries_total"}
    assert elsewhere <= metrics  # this stack has no webhook
    for metric in metrics - elsewhere:
        assert prometheus.query(metric), f"the alerts read {metric}, and the server does not have it"


def test_trouble_in_a_real_job_fires_its_alerts(
    stack: RunningStack, prometheus: Prometheus, start_job: StartJob, eventually: Any
) -> None:
    job = start_job(stack, "in trouble", preset="paper")  # which a spike throttles
    eventually(lambda: ("SteadynormServerDown", "") not in prometheus.firing())
    job.poison.set()
    eventually(lambda: ("SteadynormNonfinite", job.run_id) in prometheus.firing())
    revision = stack.client.settings(job.run_id).revision
    stack.client.change(job.run_id, {"gamma2": 0.9999}, revision=revision, reason="a long memory, so that it lasts")
    eventually(lambda: stack.client.run(job.run_id).applied.revision == revision + 1)
    job.spike.set()
    eventually(lambda: ("SteadynormThrottled", job.run_id) in prometheus.firing())
    assert prometheus.query(f'ALERTS{{alertname="SteadynormThrottled", run_id="{job.run_id}", severity="warning"}}')


def test_a_rank_that_begins_to_differ_fires_its_alert(prometheus: Prometheus, torn: TornRun, eventually: Any) -> None:
    torn.differ()
    eventually(lambda: ("SteadynormRankMismatch", torn.run_id) in prometheus.firing())
    (alert,) = [one for one in prometheus.get("alerts")["alerts"] if one["labels"].get("run_id") == torn.run_id]
    assert alert["labels"] == {
        "alertname": "SteadynormRankMismatch", "run": "torn", "run_id": torn.run_id, "severity": "critical",
    }  # fmt: skip
    assert f"steadynorm events {torn.run_id}" in alert["annotations"]["action"]


def test_promtool_has_no_complaint_about_the_live_metrics(stack: RunningStack, job: Job) -> None:
    answer = urllib3.request(
        "GET",
        f"{stack.server}/metrics",
        headers={"Authorization": f"Bearer {stack.token}"},
        timeout=20.0,
        retries=False,
    )
    assert answer.status == 200
    assert job.run_id in answer.data.decode()
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=answer.data, capture_output=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_a_finished_runs_series_disappear(
    stack: RunningStack, prometheus: Prometheus, start_job: StartJob, eventually: Any
) -> None:
    job = start_job(stack, "soon over")
    eventually(lambda: prometheus.query(f'steadynorm_run_step{{run_id="{job.run_id}"}}'))
    job.end()
    eventually(lambda: not prometheus.query(f'steadynorm_run_step{{run_id="{job.run_id}"}}'))
