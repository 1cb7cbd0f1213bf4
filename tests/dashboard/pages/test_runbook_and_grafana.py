"""Where the links of alerts lead, and the link to Grafana."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import yaml
from streamlit.testing.v1 import AppTest

import steadynorm_dashboard
from steadynorm_contract.runs import Applied, DesiredView, Health, RevisionState, RunCounters, RunState, RunSummary
from steadynorm_contract.settings import Settings, merge, resolve_increments
from steadynorm_dashboard import grafana_links, runbook
from steadynorm_dashboard.pages import runbook as runbook_page

APP = Path(steadynorm_dashboard.__file__).with_name("app.py")
RUN = RunSummary(
    run_id="gpt-1",
    name="gpt",
    state=RunState.RUNNING,
    health=Health.CALM,
    step=7,
    started=1_000_000.0,
    last_seen=1_003_600.0,
    desired=DesiredView(0, Settings(), RevisionState.APPLIED),
    applied=Applied(0, 0, Settings()),
    counters=RunCounters(),
)


def test_every_alert_has_its_section_with_the_runs_name_in_the_commands(root: Path) -> None:
    groups = yaml.safe_load((root / "deploy/prometheus/rules.yml").read_text("utf-8"))["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert sorted(runbook.titles()) == sorted(alerts)
    for alert in alerts:
        general, particular = runbook.find(alert), runbook.find(alert, "gpt-1")
        assert general
        assert particular
        assert "](#" not in general, "a link within the page leads nowhere"
        assert particular.count("gpt-1") == general.count(" RUN")
    assert "steadynorm set gpt-1 reset_generation=+1" in (runbook.find("SteadynormThrottled", "gpt-1") or "")


@pytest.mark.parametrize("run_id", ["", "<b>x</b>", "a` [click](https://evil.example) `", "x" * 101, "../up"])
def test_what_is_not_a_runs_id_never_gets_into_the_commands(run_id: str) -> None:
    assert runbook.find("SteadynormThrottled", run_id) == runbook.find("SteadynormThrottled")


def test_no_link_of_a_section_leads_where_the_dashboard_has_nothing() -> None:
    assert all("](" not in (runbook.find(title) or "](") for title in runbook.titles())
    assert "the study (docs/study.md) planted" in (runbook.find("SteadynormSpikeStorm") or "")


def open_page(monkeypatch: pytest.MonkeyPatch, home: Path, **query: str) -> AppTest:
    """The app at an address, without a token and without a server."""
    monkeypatch.setenv("STEADYNORM_HOME", str(home))
    monkeypatch.setenv("STEADYNORM_SERVER", "http://127.0.0.1:9")
    monkeypatch.delenv("STEADYNORM_TOKEN", raising=False)
    app = AppTest.from_file(str(APP), default_timeout=60.0)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, app.exception
    return app


def test_an_alerts_link_opens_its_section_even_where_server_and_token_are_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = open_page(monkeypatch, tmp_path, runbook="SteadynormSpikeStorm", run="gpt-1")
    assert [title.value for title in page.title] == ["SteadynormSpikeStorm"]
    assert any("`steadynorm set gpt-1 preset=robust`" in text.value for text in page.markdown)

    assert [code.value for code in page.code] == [
        "steadynorm set gpt-1 lr_scale=0.5",
        "steadynorm set gpt-1 mode=stabilize",
        "steadynorm set gpt-1 preset=robust",
    ]


def test_each_remedy_of_the_runbook_is_a_button_that_does_what_its_command_does() -> None:
    for title in runbook.titles():
        items = runbook.items(title, "gpt-1")
        assert "\n\n".join(item.text for item in items).split() == (runbook.find(title, "gpt-1") or "").split()
        for item in items:
            for command in item.commands:
                assert " RUN" not in command
                changes = runbook.changes_of(command)
                assert bool(changes) == command.startswith("steadynorm set ")
                merge(Settings(paused=True), resolve_increments(changes, Settings()))  # the server would take it


@pytest.mark.parametrize(
    ("command", "said"),
    [("stop=true", "Stop training"), ("reset_generation=+1", "Reset statistics"), ("lr_scale=0.5", "Set lr_scale 0.5")],
)
def test_the_button_of_a_remedy_says_what_it_does(command: str, said: str) -> None:
    assert runbook_page._label(runbook.changes_of(f"steadynorm set RUN {command}")) == said


def test_a_link_to_an_alert_that_does_not_exist_shows_those_that_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = open_page(monkeypatch, tmp_path, runbook=":red[x]<script>")
    assert "There is no alert named" in page.error[0].value
    assert ":red[x]<script>" not in page.error[0].value
    assert len(page.get("page_link")) >= len(runbook.titles())


def test_the_link_to_grafana_covers_the_time_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_GRAFANA_URL", "https://grafana.example/sub/")
    live = urlsplit(grafana_links.run_url(RUN) or "")
    assert (live.netloc, live.path) == ("grafana.example", "/sub/d/steadynorm-run")
    assert parse_qs(live.query) == {"var-run_id": ["gpt-1"], "from": ["999940000"], "to": ["now"]}
    ended = grafana_links.run_url(msgspec.structs.replace(RUN, state=RunState.FINISHED))
    assert ended is not None
    assert ended.endswith("&to=1003660000")


@pytest.mark.parametrize("url", ["", " ", "javascript:alert(1)", "grafana.example"])
def test_without_an_address_of_the_web_there_is_no_link_to_grafana(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("STEADYNORM_GRAFANA_URL", url)
    assert grafana_links.run_url(RUN) is None


def test_grafanas_dashboard_of_a_run_is_where_the_link_leads(root: Path) -> None:
    dashboard = msgspec.json.decode((root / "deploy/grafana/dashboards/run.json").read_bytes())
    assert f"d/{dashboard['uid']}" == grafana_links._DASHBOARD
    assert "run_id" in {variable["name"] for variable in dashboard["templating"]["list"]}
