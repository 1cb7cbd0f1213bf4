"""The app as Streamlit runs it, in this process, against a real server: what each page says, and to whom."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.changes import PRESETS
from steadynorm_contract.runs import RevisionState
from steadynorm_contract.settings import Settings, merge
from steadynorm_contract.telemetry import RunEnd

if TYPE_CHECKING:
    from streamlit.testing.v1.element_tree import NumberInput
    from tests.support.dashboard import OpenPage, StartRun

OPERATOR, VIEWER = "operator-token-for-tests", "viewer-token-for-tests"


@pytest.fixture(scope="module")
def server(plain_server: LocalStack) -> LocalStack:
    """These tests run the app in their own process."""
    return plain_server


@pytest.fixture
def visit(open_page: OpenPage) -> OpenPage:
    """visit("run's id", token="…", at="http://…", parameter="…") -> the app after its first run."""
    return open_page


def number(app: AppTest, label: str) -> NumberInput:
    """The number that stands there now: a new one takes its place where something else has set the value."""
    return next(one for one in app.number_input if one.label == label)


def said(app: AppTest) -> str:
    """Everything that the page says in words, as it was handed to Markdown."""
    kinds = (app.title, app.subheader, app.markdown, app.caption, app.text, app.error, app.warning, app.info, app.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def plain(app: AppTest) -> str:
    """The same without escapes."""
    return said(app).replace("\\", "").replace("\u2060", "")


def test_without_runs_the_page_shows_the_two_lines_that_bring_one(visit: OpenPage, own_server: LocalStack) -> None:
    page = visit(at=own_server.server)
    assert "No runs yet" in said(page)
    assert "import steadynorm\nagent = steadynorm.attach(model, optimizer" in said(page)


def test_the_list_shows_each_run_with_what_matters(visit: OpenPage, start_run: StartRun) -> None:
    start_run("listed <b>run</b>").finish(RunEnd.FAILED)
    (table,) = visit().get("bidi_component")
    shown = msgspec.json.decode(table.proto.json)
    (row,) = [row for row in shown["rows"] if "listed" in row["name"]]
    assert (row["name"], row["state"], row["step"]) == ("listed <b>run</b>", "failed", "399")
    titles = [title for _, title, _, _ in shown["columns"]]
    assert titles[:5] == ["run", "health", "state", "step", "steps/s"]
    assert titles[5:] == ["loss", "raw norm (log)", "target", "last change", "last seen"]


def test_an_unknown_run_is_told(visit: OpenPage) -> None:
    assert "no such run" in said(visit("nobody-00000000"))


def test_a_runs_page_leads_to_grafana_where_there_is_one(
    visit: OpenPage, start_run: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run("seen from two sides")
    assert not visit(run.run_id).get("link_button")
    monkeypatch.setenv("STEADYNORM_GRAFANA_URL", "https://grafana.example")
    (link,) = visit(run.run_id).get("link_button")
    assert link.proto.url.startswith(f"https://grafana.example/d/steadynorm-run?var-run_id={run.run_id}&")


def test_a_runs_page_shows_its_numbers(visit: OpenPage, start_run: StartRun) -> None:
    page = visit(start_run("numbers", tags={"team": ":red[x]"}).run_id)
    metrics = {metric.label: metric.value for metric in page.metric}
    assert metrics["step"] == "399"
    assert int(metrics["spikes"]) > 0
    assert metrics["non-finite"] == "0"
    assert all(metrics[name] != "–" for name in ("loss", "raw norm", "stabilized norm", "smallest target"))
    assert r"team\=\:red\[x\]" in said(page)


def test_a_run_without_steps_waits_for_the_first(visit: OpenPage, start_run: StartRun) -> None:
    page = visit(start_run("waiting", steps=0).run_id)
    assert "Waiting for the first optimizer step" in said(page)


def test_parameters_are_sorted_by_their_largest_spike_and_searched(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("table")
    page = visit(run.run_id)
    table = page.dataframe[0].value
    assert len(table) == 12
    assert list(table["largest ratio"]) == sorted(table["largest ratio"], reverse=True)
    assert table["largest ratio"].iloc[0] > 10
    page.text_input(key=f"{run.run_id}/search").set_value("MLP 1").run()
    assert sorted(page.dataframe[0].value["parameter"]) == ["blocks.1.mlp.down.weight", "blocks.1.mlp.up.weight"]


def test_a_preset_fills_its_settings_in_and_is_sent_as_them(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("preset")
    page = visit(run.run_id)
    paper, robust = (page.button(key=f"{run.run_id}/preset/{name}") for name in ("paper", "robust"))
    assert (paper.disabled, robust.disabled) == (True, False)
    number(page, "gamma1").set_value(0.9)
    number(page, "gamma2").set_value(0.99).run()
    page.button(key=f"{run.run_id}/preset/robust").click().run()
    assert page.button(key=f"{run.run_id}/preset/robust").disabled
    page.button(key=f"{run.run_id}/apply").click().run()
    assert server.client().run(run.run_id).desired.settings == merge(Settings(), {"preset": "robust"})


def test_a_change_is_pending_and_then_applied_at_a_step(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("changed")
    page = visit(run.run_id)
    number(page, "gamma2").set_value(0.99).run()
    assert "12.65 → **4**" in said(page)
    assert r"gamma2: 0\.999 → **0\.99**" in said(page)
    page.text_input(key=f"{run.run_id}/reason").set_value("[spikes](x)").run()
    page.button(key=f"{run.run_id}/apply").click().run()
    assert "pending" in said(page)
    assert server.client().run(run.run_id).desired.settings.gamma2 == 0.99
    run.send(5)
    page.run()
    assert "applied @ step 405" in plain(page)
    assert "[spikes](x)" in plain(page)
    assert "[spikes](x)" not in said(page)
    assert page.text_input(key=f"{run.run_id}/reason").value == ""
    assert page.button(key=f"{run.run_id}/apply").disabled


def test_every_setting_of_the_panel_reaches_the_run(visit: OpenPage, start_run: StartRun, server: LocalStack) -> None:
    run = start_run("all settings")
    page = visit(run.run_id)
    page.segmented_control(key=f"{run.run_id}/mode").set_value("observe")
    page.segmented_control(key=f"{run.run_id}/transfer").set_value("plain")
    number(page, "gamma1").set_value(0.9973)
    page.number_input(key=f"{run.run_id}/lr_scale").set_value(0.5)
    page.number_input(key=f"{run.run_id}/eps").set_value(1e-9)
    page.toggle(key=f"{run.run_id}/spike_limit/on").set_value(True).run()
    assert page.number_input(key=f"{run.run_id}/spike_limit").value == PRESETS["robust"]["spike_limit"] == 3.0
    page.number_input(key=f"{run.run_id}/spike_limit").set_value(4.0)
    page.select_slider(key=f"{run.run_id}/gamma2/slider/0").set_value(0.98).run()
    page.button(key=f"{run.run_id}/apply").click().run()
    assert not page.error, said(page)
    desired = server.client().run(run.run_id).desired.settings
    assert (desired.mode, desired.transfer, desired.gamma1, desired.gamma2) == ("observe", "plain", 0.9973, 0.98)
    assert (desired.lr_scale, desired.eps, desired.spike_limit) == (0.5, 1e-9, 4.0)


def test_a_bad_value_is_told_at_its_field_and_cannot_be_sent(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("bad value")
    page = visit(run.run_id)
    number(page, "gamma1").set_value(1.0).run()
    assert "gamma1 must be in [0, 1): got 1.0. For a longer memory use 0.9999." in plain(page)
    assert page.button(key=f"{run.run_id}/apply").disabled


def test_the_slower_of_two_operators_loses_nothing(visit: OpenPage, start_run: StartRun, server: LocalStack) -> None:
    run = start_run("two hands")
    page = visit(run.run_id)
    number(page, "gamma2").set_value(0.99).run()
    server.client().change(run.run_id, {"gamma1": 0.7}, revision=0, reason="calmer")
    page.button(key=f"{run.run_id}/apply").click().run()
    assert "changed gamma1 0.6 → 0.7 while you were editing (calmer)" in plain(page)
    difference = next(each.value for each in page.dataframe if "theirs" in each.value)
    assert difference.to_numpy().tolist() == [["gamma1", "0.6", "0.7", "–"], ["gamma2", "0.999", "–", "0.99"]]
    assert server.client().run(run.run_id).desired.settings.gamma2 == 0.999
    assert number(page, "gamma1").value == 0.7
    assert number(page, "gamma2").value == 0.99
    page.button(key=f"{run.run_id}/apply").click().run()
    desired = server.client().run(run.run_id).desired
    assert (desired.revision, desired.settings.gamma1, desired.settings.gamma2) == (2, 0.7, 0.99)
    assert RevisionState.SUPERSEDED.value in said(page)


def test_a_panel_without_edits_follows_other_peoples_changes(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("followed")
    page = visit(run.run_id)
    server.client().change(run.run_id, {"gamma1": 0.7}, revision=0)
    page.run()
    assert number(page, "gamma1").value == 0.7


def test_a_refused_change_says_why(visit: OpenPage, start_run: StartRun, server: LocalStack) -> None:
    run = start_run("refusing")
    run.refuses = "lr_scale is *not* allowed"
    server.client().change(run.run_id, {"lr_scale": 2.0}, revision=0)
    run.send(1)
    page = visit(run.run_id)
    assert "rejected: lr_scale is *not* allowed" in plain(page)
    assert r"\*not\*" in said(page)


def test_resetting_the_statistics_is_one_click(visit: OpenPage, start_run: StartRun, server: LocalStack) -> None:
    run = start_run("reset")
    page = visit(run.run_id)
    page.button(key=f"{run.run_id}/reset").click().run()
    assert server.client().run(run.run_id).desired.settings.reset_generation == 1
    assert "statistics reset" in said(page)


def test_an_earlier_revision_comes_back_as_a_change(visit: OpenPage, start_run: StartRun, server: LocalStack) -> None:
    run = start_run("undone")
    server.client().change(run.run_id, {"gamma2": 0.99}, revision=0)
    server.client().change(run.run_id, {"gamma1": 0.7, "gamma2": 0.95}, revision=1)
    page = visit(run.run_id, tab="Changes")
    assert page.selectbox(key=f"{run.run_id}/undo/revision/2").options == ["r1", "as registered"]
    assert "gamma2: 0.95 → **0.99**" in plain(page)
    page.selectbox(key=f"{run.run_id}/undo/revision/2").set_value(0).run()
    assert "gamma2: 0.95 → **0.999**" in plain(page)
    page.text_input(key=f"{run.run_id}/undo/reason").set_value("worse").run()
    page.button(key=f"{run.run_id}/undo/go").click().run()
    newest = server.client().audit(run.run_id).entries[0]
    assert (newest.revision, newest.after) == (3, {"gamma1": 0.6, "gamma2": 0.999})
    assert newest.reason == "back to the settings as registered: worse"
    assert number(page, "gamma2").value == 0.999


def test_a_preview_replays_the_draft_and_changes_nothing(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("previewed")
    page = visit(run.run_id)
    assert page.button(key=f"{run.run_id}/preview/open").disabled
    page.toggle(key=f"{run.run_id}/spike_limit/on").set_value(True).run()
    page.button(key=f"{run.run_id}/preview/open").click().run()
    assert not page.exception, page.exception
    assert "the norms that the optimizer saw, and those that it would have seen" in said(page)
    table = next(each.value for each in page.dataframe if "largest norm seen" in each.value)
    assert len(table) == 3
    assert all("→" in each for each in table["throttled"])
    assert server.client().run(run.run_id).desired.revision == 0


def test_a_runs_page_says_since_when_which_layer_and_what_to_do(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("in trouble", steps=430)  # scripted runs spike at 120, 270, 420
    page = visit(run.run_id)
    assert re.search(
        r"\*\*Spiking since [\d:]+ \(step 420\); worst blocks\.\S+, ×[\d.]+(; \d events)?\*\*", plain(page)
    )
    links = {link.proto.label: link.proto.query_string for link in page.get("page_link")}
    assert "incident=" in links["incident"]
    assert "runbook=SteadynormSpikeStorm" in links["what to do"]


def test_a_run_that_ended_cannot_be_changed(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("over")
    run.finish(RunEnd.FAILED, "CUDA out of memory")
    page = visit(run.run_id)
    assert "CUDA out of memory" in plain(page)
    assert "The run has ended" in said(page)
    assert page.segmented_control(key=f"{run.run_id}/mode").disabled


def test_settings_that_the_jobs_owner_did_not_allow_are_locked(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("partly locked", allow=["gamma2"])
    page = visit(run.run_id)
    assert number(page, "gamma1").disabled
    assert not number(page, "gamma2").disabled
    assert page.button(key=f"{run.run_id}/reset").disabled


def test_what_matters_of_a_change_an_event_and_a_parameter_stands_first(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("columns")
    server.client().change(run.run_id, {"gamma2": 0.99}, revision=0)
    first = {
        "Parameters": ["parameter", "note", "largest ratio", "spike ratio"],
        "Changes": ["revision", "when", "state", "before → after"],
        "Events": ["when", "step", "event", "what happened"],
    }
    for tab, columns in first.items():
        page = visit(run.run_id, tab=tab)
        assert [list(each.value)[:4] for each in page.dataframe] == [columns]  # and no tab that nobody looks at
