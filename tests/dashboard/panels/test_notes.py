"""Notes in the dashboard: written on a run and an incident, shown where people look, and never read as markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest
from streamlit.testing.v1 import AppTest
from tests.support.dashboard import VIEWER, tables

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.events import EventKind
from steadynorm_contract.notes import NewNote, Note, NoteAction
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts import markers
from steadynorm_dashboard.charts.run import run_figure
from steadynorm_dashboard.data.shared_cache import shared_cache
from steadynorm_dashboard.formatting import timeline
from steadynorm_dashboard.panels import writes

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, ScriptedRun
    from tests.support.waiting import Eventually

HOSTILE = "<img src=x onerror=alert(1)> **bold** :red[red] [a](http://b.c)"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read asks the server."""
    monkeypatch.setattr(shared_cache, "_fresh_s", 0.0)


@pytest.fixture(scope="module")
def run(server: LocalStack, scripted_run: type[ScriptedRun]) -> ScriptedRun:
    """A run that spiked in step 120."""
    return scripted_run(server, "noted", steps=200)


def raw(app: AppTest) -> Iterable[str]:
    return (str(element.value) for kind in (app.markdown, app.caption) for element in kind)


def said(app: AppTest) -> str:
    return "\n".join(raw(app)).replace("\\", "").replace("\u2060", "")


def test_a_note_is_written_on_a_run_and_shown_as_it_was_typed(
    open_page: OpenPage, run: ScriptedRun, server: LocalStack
) -> None:
    page = open_page(run.run_id)
    key = f"{run.run_id}/note/run"
    page.button(key=f"{key}/send").click().run()
    assert [each.value for each in page.warning] == ["Write something first."]
    page.number_input(key=f"{run.run_id}/note/step").set_value(120)
    page.text_area(key=f"{key}/text/input/0").set_value(HOSTILE).run()
    page.button(key=f"{key}/send").click().run()
    assert not page.exception
    (note,) = server.client().notes(run.run_id).notes
    assert (note.text, note.step, note.author) == (HOSTILE, 120, "operator")
    assert page.text_area(key=f"{key}/text/input/1").value == ""
    page.run()
    assert HOSTILE in said(page)
    assert not any(HOSTILE in text for text in raw(page)), "it would be read as markup"
    (rows,) = [each for each in tables(open_page(run.run_id, tab="Notes")) if "note" in each[0]]
    assert (rows[0]["note"], rows[0]["who"]) == (HOSTILE, "operator")


def test_an_incident_is_taken_handed_over_and_closed_on_its_page(
    open_page: OpenPage, run: ScriptedRun, server: LocalStack
) -> None:
    client = server.client()
    event = next(each for each in client.events(run.run_id).events if each.kind is EventKind.SPIKE)
    page = open_page(run.run_id, incident=event.id)
    assert "Nobody has taken this incident." in said(page)
    key = f"{run.run_id}/note/{event.id}"
    page.text_area(key=f"{key}/take/text/input/0").set_value("looking at shard 6").run()
    page.button(key=f"{key}/take/send").click().run()
    page.run()
    assert "Taken by operator" in said(page)
    assert "operator · at the same step · takes the incident: looking at shard 6" in said(page).replace("**", "")
    page.text_input(key=f"{run.run_id}/incident/{event.id}/to").set_value("bob").run()
    page.button(key=f"{key}/hand_over/send").click().run()
    page.run()
    assert "Taken by bob" in said(page)
    header = open_page(run.run_id)
    assert any("taken by bob" in str(each.proto) for each in header.get("markdown"))
    client.add_note(run.run_id, NewNote(action=NoteAction.CLOSE, event=event.id))
    page.run()
    assert "Closed by operator" in said(page)
    locked = open_page(run.run_id, incident=event.id, token=VIEWER)
    assert locked.button(key=f"{key}/take/send").disabled
    assert [each.by for each in client.run(run.run_id).incidents] == ["operator"]


def test_notes_are_marks_on_the_chart_that_open_their_incident() -> None:
    steps = list(range(0, 100, 10))
    norm = Series(steps, [10] * 10, [1.0] * 10, [2.0] * 10, [3.0] * 10, [0.0] * 10)
    about = Note(time=2.0, author="ada", text=HOSTILE, step=25, event="7-0", action=NoteAction.TAKE)
    loop = Note(time=1.0, author="training loop", by_agent=True, text="x" * 2000, step=99)
    beyond = Note(time=3.0, author="ada", text="later", step=100)
    first, second = markers.notes({"raw_norm": norm}, [beyond, about, loop])
    assert (first.step, first.height, first.key) == (25, 3.0, "incident:7-0")
    assert first.text.endswith("(ada), step 25")
    assert (second.key, len(second.text) < 150) == ("", True)
    figure = run_figure({"raw_norm": norm}, [], [], revision="r", notes=[about, loop])
    assert figure is not None
    (trace,) = [each for each in figure.data if each.get("name") == "note"]
    assert trace["text"][0].startswith("takes the incident: &lt;img src=x onerror=alert(1)&gt;")
    assert trace["text"][0].endswith("step 25 (click)")


def test_what_is_near_an_incident_is_in_the_order_of_time() -> None:
    notes = [
        Note(time=3.0, author="ada", text="far, but about it", step=9000, event="7-0"),
        Note(time=2.0, author="ada", text="near", step=90),
        Note(time=1.0, author="ada", text="far", step=9000),
    ]
    found = timeline.near(timeline.deeds([], notes), 100, "7-0", 1000)
    assert [deed.what for deed in found] == ["near", "far, but about it"]
    assert [timeline.distance(deed.step, 100) for deed in found] == ["10 steps before", "8,900 steps after"]
    assert timeline.distance(99, 100) == "1 step before"


@pytest.mark.parametrize("on_incident", [False, True])
def test_a_note_whose_answer_comes_late_is_sent_and_closes_its_form(
    open_page: OpenPage,
    run: ScriptedRun,
    server: LocalStack,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
    on_incident: bool,
) -> None:
    monkeypatch.setattr(writes, "_QUICK_S", 0.0)
    events = server.client().events(run.run_id).events
    event = next(each for each in events if each.kind is EventKind.SPIKE)
    page = open_page(run.run_id, **({"incident": event.id} if on_incident else {}))
    key = f"{run.run_id}/note/{event.id if on_incident else 'run'}"
    page.session_state[f"{key}/open"] = True
    page.text_area(key=f"{key}/text/input/0").set_value("late").run()
    page.button(key=f"{key}/send").click().run()

    def is_sent() -> bool:
        page.run()
        assert not page.exception, page.exception
        return f"{key}/write" not in page.session_state

    eventually(is_sent)
    assert (page.text_area(key=f"{key}/text/input/1").value, page.session_state[f"{key}/open"]) == ("", False)
