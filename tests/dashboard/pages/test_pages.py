"""The app as Streamlit runs it, in this process, against a real server: what each page says, and to whom."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
import streamlit
from streamlit.testing.v1 import AppTest
from tests.support.dashboard import tables

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.runs import RevisionState
from steadynorm_contract.settings import Settings, merge
from steadynorm_contract.telemetry import AgentNote, DetectorStatus, NoteKind, RecoveryStatus, RunEnd
from steadynorm_dashboard.components import first_chart
from steadynorm_dashboard.panels import settings

if TYPE_CHECKING:
    from streamlit.testing.v1.element_tree import NumberInput
    from tests.support.dashboard import OpenPage, StartRun

OPERATOR, VIEWER = "operator-token-for-tests", "viewer-token-for-tests"


@pytest.fixture
def visit(open_page: OpenPage) -> OpenPage:
    """visit("run's id", token="…", at="http://…", parameter="…") -> the app after its first run."""
    return open_page


def number(app: AppTest, label: str) -> NumberInput:
    """The number that stands there now: a new one takes its place where something else has set the value."""
    return next(one for one in app.number_input if one.label == label)


def said(app: AppTest) -> str:
    """Everything that the page says in words, as it was handed to Markdown."""
    kinds = (app.title, app.header, app.markdown, app.caption, app.text, app.error, app.warning, app.info, app.code)
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
    said_aloud, table = visit().get("bidi_component")
    assert "runs training" in msgspec.json.decode(said_aloud.proto.json)["text"]
    shown = msgspec.json.decode(table.proto.json)
    (row,) = [row for row in shown["rows"] if "listed" in row["name"]]
    assert (row["name"], row["state"], row["step"]) == ("listed <b>run</b>", "failed", "399")
    titles = [title for _, title, _, _ in shown["columns"]]
    assert titles[:5] == ["run", "health", "state", "step", "steps/s"]
    assert titles[5:10] == ["loss", "raw norm (log)", "target", "last change", "started"]
    assert titles[10:] == ["ran for", "last seen"]


def test_a_run_can_be_stopped_and_its_settings_reached_before_a_chart_stands(
    visit: OpenPage, start_run: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start_run("slow to draw", steps=5).run_id
    monkeypatch.setattr(first_chart, "is_drawn", lambda: False)
    page = visit(run_id)
    assert not page.get("tab")  # waits
    (link,) = [each for each in page.get("html") if 'class="steadynorm-skip"' in each.proto.body]
    assert 'href="#settings"' in link.proto.body
    assert "Settings" in [each.value for each in page.header]
    assert {f"{run_id}/{action}" for action in ("pause", "checkpoint", "stop", "apply")} <= {
        button.key for button in page.button if not button.disabled or button.key == f"{run_id}/apply"
    }


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
    assert int(metrics["tensor spikes"]) > 0
    assert metrics["non-finite"] == "0"
    assert all(metrics[name] != "–" for name in ("loss", "raw norm", "stabilized norm", "smallest target"))
    assert r"team\=\:red\[x\]" in said(page)


def test_a_runs_page_says_what_the_agent_found_in_the_loop(visit: OpenPage, start_run: StartRun) -> None:
    line, finding = "12 of 12 tensors, steps seen", "100 steps without any gradient: <b>attach</b> elsewhere."
    notes = [AgentNote(NoteKind.SELF_CHECK, 2, 0.0, 0, line), AgentNote(NoteKind.FINDING, 100, 0.0, 0, finding)]
    page = visit(start_run("checked", notes=notes, world_size=4).run_id)
    assert [each.value.replace("\\", "").replace("\u2060", "") for each in page.warning] == [finding]
    assert f"agent: {line}" in plain(page)
    assert "4 ranks; loss and batch ids are rank 0's" in plain(page)


def test_a_run_without_steps_waits_for_the_first(visit: OpenPage, start_run: StartRun) -> None:
    page = visit(start_run("waiting", steps=0).run_id)
    assert "Waiting for the first optimizer step" in said(page)


def test_parameters_are_sorted_by_their_largest_spike_and_searched(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("table")
    page = visit(run.run_id)
    (table,) = tables(page)
    assert len(table) == 12
    ratios = [float(row["largest ratio"]) for row in table]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 10
    page.text_input(key=f"{run.run_id}/search").set_value("MLP 1").run()
    assert sorted(row["parameter"] for row in tables(page)[0]) == ["blocks.1.mlp.down.weight", "blocks.1.mlp.up.weight"]


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


def test_a_form_without_edits_is_refreshed_until_it_shows_what_others_changed(
    visit: OpenPage, start_run: StartRun, server: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run("followed")
    page = visit(run.run_id)
    reruns: list[None] = []
    with monkeypatch.context() as patch:
        patch.setattr(settings, "panel", settings._panel)  # as if the page had read the run a moment too early
        patch.setattr(streamlit, "rerun", lambda: reruns.append(None))
        server.client().change(run.run_id, {"gamma1": 0.5}, revision=0)
        page.run()
        page.run()
    assert len(reruns) == 2
    assert number(page.run(), "gamma1").value == 0.5


def test_a_change_is_pending_and_then_applied_at_a_step(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("changed")
    page = visit(run.run_id)
    number(page, "gamma2").set_value(0.99).run()
    assert "12.65 → **4**" in said(page)
    assert r"gamma2: 0\.999 → **0\.99**" in said(page)
    page.text_input(key=f"{run.run_id}/reason/input/0").set_value("[spikes](x)").run()
    page.button(key=f"{run.run_id}/apply").click().run()
    assert "pending" in said(page)
    assert server.client().run(run.run_id).desired.settings.gamma2 == 0.99
    run.send(5)
    page.run()
    assert "applied @ step 405" in plain(page)
    assert "[spikes](x)" in plain(page)
    assert "[spikes](x)" not in said(page)
    assert page.text_input(key=f"{run.run_id}/reason/input/1").value == ""
    assert page.button(key=f"{run.run_id}/apply").disabled


def test_the_form_does_not_depend_on_a_response_that_reaches_the_browser(visit: OpenPage, start_run: StartRun) -> None:
    """A response may be overtaken by the next one: what a browser sees first then is each widget's own start value."""
    run = start_run("overtaken")
    page = visit(run.run_id)
    number(page, "lr_scale").set_value(0.5).run()
    page.button(key=f"{run.run_id}/preset/robust").click().run()
    page.text_input(key=f"{run.run_id}/reason/input/0").set_value("calmer").run()
    page.button(key=f"{run.run_id}/apply").click().run()
    shown = {each.label: each.proto for each in [*page.number_input, *page.toggle]}
    assert {label: shown[label].default for label in ("gamma1", "gamma2", "spike_limit ratio", "spike_limit")} == {
        "gamma1": 0.6,
        "gamma2": 0.999,
        "spike_limit ratio": 3.0,
        "spike_limit": True,
    }
    assert (shown["lr_scale"].default, shown["eps"].default, shown["clip_norm"].default) == (0.5, 1e-12, 1.0)
    (mode,) = [each for each in page.segmented_control if each.label == "mode"]
    assert [mode.proto.options[at].content for at in mode.proto.default] == ["stabilize"]
    widgets = [*page.number_input, *page.toggle, *page.segmented_control, *page.select_slider, *page.text_input]
    assert [each.label for each in widgets if each.proto.set_value] == []


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
    difference = next(each for each in tables(page) if "theirs" in each[0])
    assert [list(row.values()) for row in difference] == [
        ["gamma1", "0.6", "0.7", "–"],
        ["gamma2", "0.999", "–", "0.99"],
    ]
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
    page.text_input(key=f"{run.run_id}/undo/reason/input/0").set_value("worse").run()
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
    page.toggle(key=f"{run.run_id}/spike_limit/on/input/0").set_value(True).run()
    page.button(key=f"{run.run_id}/preview/open").click().run()
    assert not page.exception, page.exception
    assert [each.value for each in page.subheader][-2:] == ["Replayed on recorded steps", "From now on"]
    assert "Had these settings been in force in steps" in said(page)
    table = next(each for each in tables(page) if "largest norm seen" in each[0])
    assert len(table) == 3
    assert all("→" in row["throttled"] for row in table)
    future = next(each for each in tables(page) if "target now" in each[0])
    assert len(future) == 3
    assert all(" → " in row["in 200 steps"] for row in future)
    assert "It does not end the throttling that is there" in plain(page)
    assert re.search(r"Throttled for about [\d,]+ more steps", plain(page))
    assert server.client().run(run.run_id).desired.revision == 0


def test_a_runs_page_says_since_when_which_layer_and_what_to_do(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("in trouble", steps=430)  # scripted runs spike at 120, 270, 420
    page = visit(run.run_id)
    assert re.search(
        r"\*\*Spiking since [\d:]+ \(step 420\); worst blocks\.\S+, ×[\d.]+(; \d events)?"
        r"; throttled: updates are [\d.]+ times too small, for about [\d,]+ more steps\*\*",
        plain(page),
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
    assert page.segmented_control(key=f"{run.run_id}/mode/input/0").disabled


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
        assert [list(each[0])[:4] for each in tables(page)] == [columns]  # and no tab that nobody looks at


def test_what_was_rolled_back_is_a_table_of_its_own(visit: OpenPage, start_run: StartRun) -> None:
    why = "loss > 20 x median of 500 (loss 9 against 2). The learning rate is held"
    asked = "requested, rollback_generation 1."
    run = start_run(
        "brought back",
        recovery=RecoveryStatus(
            [200, 300], 2, 100, [DetectorStatus("loss is nan"), DetectorStatus("eval/lss > 3", has_value=False)]
        ),
        notes=[
            AgentNote(NoteKind.ROLLBACK, 310, 1.0, 0, f"rolled back from 310 to 300: {why}", 300.0),
            AgentNote(NoteKind.ROLLBACK_ADVISED, 320, 2.0, 0, "would have rolled back from 320 to 300: why.", 300.0),
            AgentNote(NoteKind.ROLLBACK, 330, 3.0, 0, f"rolled back from 330 to 200: {asked}", 200.0),
            AgentNote(NoteKind.RANK_FAILED, 340, 4.0, 0, "rank 1 failed"),
        ],
    )
    page = visit(run.run_id, tab="Recovery")
    (unmet,), (first, *_, last) = tables(page)
    assert unmet["detector"] == "eval/lss > 3"
    assert unmet["state"] == "has seen no value yet: no scalar 'eval/lss' in this run yet; it logs none of its own."
    names = ("what", "from", "to", "by", "why")
    assert [first[name] for name in names] == ["rolled back", "330", "200", "a request", asked]
    assert [last[name] for name in names] == ["rolled back", "310", "300", "a detector", why]
    assert "snapshots of steps 200, 300; 2 automatic rollbacks left" in plain(page)
    other = visit(start_run("without").run_id, tab="Recovery")
    assert "No snapshots are kept: pass recovery=" in plain(other)
    assert tables(other) == []
