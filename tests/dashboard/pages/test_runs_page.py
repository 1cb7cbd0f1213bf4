"""The fleet's page as Streamlit runs it, over the answers of a real server: its rows, words and filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
import pytest
from streamlit.runtime.state import QueryParamsProxy
from streamlit.testing.v1 import AppTest

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.fleet import FleetResponse, FleetRun, LastChange
from steadynorm_contract.runs import Applied, DesiredView, Health, RevisionState, RunCounters, RunState
from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import RunEnd
from steadynorm_dashboard.components import fleet_rows
from steadynorm_dashboard.formatting import status
from steadynorm_dashboard.pages import runs
from steadynorm_dashboard.panels.fleet_filters import Filters

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, ScriptedRun
    from tests.support.waiting import Eventually

NOW = 1_700_000_000.0
VIEWER = "viewer-token-for-tests"


@pytest.fixture(scope="module")
def fleet(server: LocalStack, scripted_run: type[ScriptedRun]) -> LocalStack:
    """A server with a handful of runs, two of which ended."""
    for name, team in (("gpt-small", "speech"), ("gpt-large", "speech"), ("vit", "vision")):
        scripted_run(server, name, steps=100, tags={"team": team})
    scripted_run(server, "spiked", steps=130)
    scripted_run(server, "finished", steps=5).finish()
    scripted_run(server, "failed", steps=5).finish(RunEnd.FAILED, "out of memory")
    return server


@pytest.fixture
def visit(fleet: LocalStack, open_page: OpenPage) -> OpenPage:
    """visit() -> the page of an operator."""
    return open_page


def address(page: AppTest) -> dict[str, list[str]]:
    """The query, as the page or the test wrote it."""
    return {name: [value] if isinstance(value, str) else list(value) for name, value in page.query_params.items()}


def confirm(page: AppTest) -> None:
    """Press the form's button, and draw the page until the answer is there."""
    page.button(key="lifecycle/now").click().run()
    while "lifecycle/write" in page.session_state:
        page.run()


def unmarked(page: AppTest) -> list[str]:
    """The runs that the table unmarks: those that the last action was done to."""
    tables = [msgspec.json.decode(each.proto.json) for each in page.get("bidi_component")]
    (done,) = [table["done"] for table in tables if "done" in table]
    assert done["id"]
    found: list[str] = done["runs"]
    return found


def names(page: AppTest) -> list[str]:
    """The runs of the table, from top to bottom. A run's page has components too, none of which is this table."""
    return [
        row["name"]
        for table in page.get("bidi_component")
        for row in msgspec.json.decode(table.proto.json).get("rows", [])
    ]


def test_the_run_in_trouble_stands_on_top_and_the_page_says_so_in_a_sentence(visit: OpenPage) -> None:
    page = visit()
    assert names(page) == ["failed", "spiked", "vit", "gpt-large", "gpt-small"]
    assert "Hidden: 1 other run." in page.caption[-1].value
    next(button for button in page.button if button.label == "Show all").click().run()
    assert names(page) == ["failed", "spiked", "vit", "gpt-large", "gpt-small", "finished"]
    assert address(page)["show"] == ["all"]
    (words,) = (each.value for each in page.markdown if "train" in each.value)
    failed, _, spiking = words.partition("ago] ")
    assert failed.startswith("**4** of 6 runs are training: :red-badge[:material/error: 1 failed ")
    assert spiking == ":orange-badge[:material/electric_bolt: 1 spiking]"


def test_runs_are_filtered_by_words_state_health_and_tag(visit: OpenPage) -> None:
    page = visit()
    page.text_input[0].set_value("GPT speech").run()
    assert names(page) == ["gpt-large", "gpt-small"]
    page.text_input[0].set_value("").run()
    page.segmented_control[0].set_value("ended").run()
    assert names(page) == ["failed", "finished"]
    page.segmented_control[0].set_value("failed").run()
    assert names(page) == ["failed"]
    page.segmented_control[0].set_value("all").run()
    page.pills[0].set_value(["spiking"]).run()
    assert names(page) == ["spiked"]
    page.pills[0].set_value([]).run()
    page.multiselect[0].set_value(["team=vision"]).run()
    assert names(page) == ["vit"]


def test_filters_that_leave_nothing_offer_to_be_cleared(visit: OpenPage) -> None:
    page = visit()
    page.text_input[0].set_value("no such run").run()
    assert names(page) == []
    assert "No run matches these filters." in [each.value for each in page.markdown]
    next(button for button in page.button if button.label == "Clear filters").click().run()
    assert len(names(page)) == 5
    assert page.text_input[0].value == ""


def test_filters_outlive_a_visit_to_a_run(visit: OpenPage, fleet: LocalStack) -> None:
    page = visit()
    page.text_input[0].set_value("vit").run()
    page.pills[0].set_value(["calm"]).run()
    page.multiselect[0].set_value(["team=vision"]).run()
    page.query_params.clear()
    page.query_params["run"] = next(run.run_id for run in fleet.client().runs().runs if run.name == "vit")
    page.run()
    assert [each.value for each in page.title] == ["vit"]
    assert names(page) == []
    back = next(link.proto.query_string for link in page.get("page_link") if link.proto.label == "Runs overview")
    assert parse_qs(back) == {"search": ["vit"], "health": ["calm"], "tag": ["team=vision"]}
    page.query_params.clear()
    for name, values in parse_qs(back).items():
        page.query_params[name] = values
    page.run()
    assert names(page) == ["vit"]
    assert address(page) == parse_qs(back)
    for _ in range(2):  # and however often it is drawn before the browser shows it
        page.run()
        assert page.text_input[0].proto.default == "vit"
        assert page.pills[0].value == ["calm"]
        assert page.multiselect[0].value == ["team=vision"]


def test_a_response_that_changes_nothing_leaves_the_address_alone(
    visit: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may reach the browser after its visitor went back."""
    written: list[dict[str, Any]] = []
    write = QueryParamsProxy.from_dict

    def spy(address: QueryParamsProxy, query: dict[str, Any]) -> None:
        written.append(query)
        write(address, query)

    monkeypatch.setattr(QueryParamsProxy, "from_dict", spy)
    page = visit()
    page.text_input[0].set_value("vit").run()
    assert written.pop() == {"search": ["vit"]}
    written.clear()
    page.run()
    assert written == []
    page.query_params.clear()  # sent by the browser before it got the address with the search
    page.run()
    assert (written, names(page)) == ([], ["vit"])


def made(**changes: Any) -> FleetRun:
    """A calm run that trains."""
    return FleetRun(
        **{
            "run_id": "tiny-1",
            "name": "tiny",
            "state": RunState.RUNNING,
            "health": Health.CALM,
            "step": 1200,
            "started": NOW - 60,
            "last_seen": NOW - 3,
            "desired": DesiredView(0, Settings(), RevisionState.APPLIED),
            "applied": Applied(0, 0, Settings()),
            "counters": RunCounters(),
            "steps_per_s": 4.2,
            **changes,
        }
    )


def row(**changes: Any) -> dict[str, Any]:
    (shown,) = fleet_rows.rows([made(**changes)], NOW)
    return shown


def test_a_row_says_who_changed_what_when_and_why() -> None:
    change = LastChange(
        revision=3,
        time=NOW - 120,
        actor="ada",
        reason="spikes",
        before={"gamma2": 0.999},
        after={"gamma2": 0.99},
        state=RevisionState.PENDING,
    )
    assert row(last_change=change)["change"] == {
        "what": "gamma2 0.999 → 0.99",
        "who": "ada, 2 min ago · pending",
        "why": "r3: spikes",
    }
    assert row()["change"] is None


def test_silence_is_told_apart_from_a_pause_and_from_a_lost_agent() -> None:
    paused = Applied(1, 5, Settings(paused=True))
    silent = {"state": RunState.STALLED, "health": Health.STALLED}
    assert (row(**silent)["state"], row(**silent)["health"]) == ("stalled", "stalled")
    shown = row(**silent, applied=paused)
    assert (shown["state"], shown["health"]) == ("paused", "paused")
    shown = row(state=RunState.STALLED, health=Health.NONFINITE, connected=False)
    assert (shown["state"], shown["health"]) == ("disconnected", "non-finite")
    shown = row(state=RunState.STALLED, health=Health.DISCONNECTED, connected=False, applied=paused)
    assert (shown["state"], shown["health"]) == ("disconnected", "disconnected")


def test_what_is_silent_does_not_train_and_is_counted_as_what_it_is() -> None:
    answer = FleetResponse(
        runs=[],
        matching=0,
        total=198,
        states={"running": 4, "stalled": 129, "failed": 2, "finished": 63},
        failed_lately=1,
        failed_last=NOW - 360,
        healths={"disconnected": 129, "calm": 4},
        tags={},
    )
    assert runs._summary(answer, NOW) == (
        "**4** of 198 runs are training: :red-badge[:material/error: 1 failed 6 min ago] "
        ":red-badge[:material/link_off: 129 disconnected]"
    )


def test_an_ended_run_says_how_it_ended_instead_of_how_it_did() -> None:
    assert row(state=RunState.FAILED, health=Health.SPIKING)["health"] == "failed"
    assert row(state=RunState.FINISHED)["health"] == "finished"
    assert "failed" in fleet_rows.badges([made(state=RunState.FAILED)])


def test_a_pasted_text_is_cut_to_the_words_that_the_server_takes() -> None:
    search = Filters(search=" ".join(f"word{at % 40}" for at in range(200))).query()["search"]
    assert search.split() == [f"word{at}" for at in range(16)]


def test_a_run_that_does_not_train_has_no_speed() -> None:
    assert row()["speed"] == "4.2"
    assert row(state=RunState.FINISHED)["speed"] == row(state=RunState.STALLED)["speed"] == "–"


def test_of_many_tags_some_are_shown_and_all_can_be_read() -> None:
    shown = row(tags={f"key{at}": str(at) for at in range(7)})
    assert shown["tags"] == ["key0=0", "key1=1", "key2=2", "key3=3"]
    assert shown["more_tags"] == 3
    assert shown["about"].endswith("key6=6")


def test_every_health_has_a_word_a_shape_and_a_colour_of_its_own() -> None:
    looks = [status.health(health) for health in Health]
    assert len({look.word for look in looks}) == len({look.icon for look in looks}) == len(Health)
    assert all(look.help for look in looks)


def test_runs_are_grouped_by_the_values_of_a_tag(visit: OpenPage) -> None:
    page = visit(group="team")
    assert names(page) == ["vit", "gpt-large", "gpt-small", "failed", "spiked"]
    _, table = (msgspec.json.decode(each.proto.json) for each in page.get("bidi_component"))
    assert table["headings"] == {"vision": "team=vision · 1", "speech": "team=speech · 2", "": "without team · 2"}
    assert [row["group"] for row in table["rows"]] == ["vision", "speech", "speech", "", ""]


def test_a_link_shows_what_its_sender_saw_and_a_bad_value_in_it_is_ignored(visit: OpenPage) -> None:
    page = visit(search="gpt", show="all", sort="name", health="no such", group="")
    assert names(page) == ["gpt-large", "gpt-small"]
    assert page.text_input[0].value == "gpt"
    assert page.segmented_control[0].value == "all"
    assert address(page) == {"search": ["gpt"], "show": ["all"], "sort": ["name"]}
    page.query_params["search"] = "vit"  # as the back button does
    page.run()
    assert names(page) == ["vit"]
    assert page.text_input[0].value == "vit"


def test_runs_are_archived_renamed_and_deleted_with_the_way_back(
    visit: OpenPage, fleet: LocalStack, scripted_run: type[ScriptedRun], eventually: Eventually
) -> None:
    old = scripted_run(fleet, "old", steps=5)
    old.finish()
    client = fleet.client()

    def act(page: AppTest, action: str, **fields: str) -> None:
        """As the table asks for it, then the form."""
        page.session_state["lifecycle/pending"] = (action, {old.run_id: client.run(old.run_id).name})
        page.run()
        for key, value in fields.items():
            of = {"name": old.run_id, "reason": f"{action}/{old.run_id}/input/0"}[key]
            page.text_input(key=f"lifecycle/{key}/{of}").set_value(value)
        confirm(page)

    page = visit(show="all")
    eventually(lambda: "old" in names(page.run()))  # a server reads its runs once a second
    act(page, "archive", reason="a sweep")
    assert client.run(old.run_id).archived is not None
    assert any("old archived" in each.value for each in page.markdown)
    assert unmarked(page) == [old.run_id]
    page.button(key="lifecycle/undo").click().run()
    while "lifecycle/write" in page.session_state:
        page.run()
    assert client.run(old.run_id).archived is None
    act(page, "rename", name="kept")
    assert client.run(old.run_id).name == "kept"
    act(page, "delete")
    assert client.run(old.run_id).deletes_at is not None
    assert [each.reason for each in client.audit(old.run_id).lifecycle] == ["", "", "undone", "a sweep"]
    page = visit(old.run_id)
    assert any("This run was deleted, and is removed in" in each.value for each in page.markdown)
    page.button(key="lifecycle/banner/restore").click().run()
    confirm(page)
    assert client.run(old.run_id).deletes_at is None
    client.delete(old.run_id)


def test_a_live_run_that_is_to_be_deleted_is_refused_with_what_to_do(visit: OpenPage, fleet: LocalStack) -> None:
    live = next(run for run in fleet.client().runs(name="vit").runs)
    page = visit()
    page.session_state["lifecycle/pending"] = ("delete", {live.run_id: "vit"})
    page.run()
    confirm(page)
    assert any("Stop it first" in each.value for each in page.error)
    assert unmarked(page) == []


def test_a_viewer_can_neither_archive_nor_delete(visit: OpenPage) -> None:
    page = visit(token=VIEWER)
    _, table = (msgspec.json.decode(each.proto.json) for each in page.get("bidi_component"))
    assert "read-only access" in table["refusal"]
    assert [button[0] for button in table["buttons"]] == ["archive", "rename", "delete"]


def test_a_link_to_a_run_shows_its_range_axis_zoom_and_tab(visit: OpenPage, fleet: LocalStack) -> None:
    run_id = next(run.run_id for run in fleet.client().runs(name="spiked").runs)
    sent = {"range": "last-200", "axis": "elapsed", "zoom": "20-40", "map": "no-such", "find": "head"}
    sent |= {"pinned": "target_min", "order": "-largest ratio"}
    page = visit(run_id, tab="Parameters", **sent)
    assert page.session_state[f"{run_id}/window"] == "last 200"
    assert page.segmented_control(key=f"{run_id}/window").value == "last 200"
    assert page.segmented_control(key=f"{run_id}/x axis").value == "elapsed"
    assert page.session_state[f"{run_id}/zoom"] == {"": (20, 40)}
    assert page.text_input(key=f"{run_id}/search").value == "head"
    assert page.session_state[f"{run_id}/parameters/sort"] == ("largest ratio", True)
    assert page.session_state[f"{run_id}/pinned"] == ["target_min"]
    assert address(page) == {"run": [run_id]} | {name: [text] for name, text in sent.items() if name != "map"}
    page.segmented_control(key=f"{run_id}/window").set_value("last 1k").run()
    assert address(page)["range"] == ["last-1k"]
    assert "zoom" not in address(page)


def test_links_to_a_parameter_and_to_a_comparison_show_their_zoom_and_sort(visit: OpenPage, fleet: LocalStack) -> None:
    ids = [next(run.run_id for run in fleet.client().runs(name=name).runs) for name in ("spiked", "vit")]
    name = fleet.client().parameters(ids[0]).parameters[0].name
    page = visit(ids[0], parameter=name, range="last-200", zoom="20-40", smoothing="0.5")
    assert page.session_state[f"{ids[0]}/parameter/{name}/zoom"] == {"": (20, 40)}
    assert page.segmented_control(key=f"{ids[0]}/parameter/{name}/window").value == "last 200"
    assert address(page) == {
        "run": [ids[0]], "parameter": [name], "range": ["last-200"], "zoom": ["20-40"], "smoothing": ["0.5"]
    }  # fmt: skip
    page.button(key=f"{ids[0]}/parameter/{name}/whole").click().run()
    assert "zoom" not in address(page)
    page = visit(compare=",".join(ids), zoom="20-40", order="-last")
    assert page.session_state["compare/zoom"] == {"": (20, 40), ids[0]: (20, 40), ids[1]: (20, 40)}
    assert page.session_state["compare/values/sort"] == ("last", True)
    assert address(page) == {"compare": [",".join(ids)], "zoom": ["20-40"], "order": ["-last"]}


def test_a_name_in_the_address_opens_the_newest_run_of_that_name(
    visit: OpenPage, fleet: LocalStack, scripted_run: type[ScriptedRun]
) -> None:
    first, newest = (scripted_run(fleet, "twice [1]", steps=5) for _ in range(2))
    page = visit("twice [1]")
    assert address(page)["run"] == [newest.run_id]
    assert [each.value for each in page.title] == [r"twice \[1\]"]
    for run in (first, newest):
        fleet.client().delete(run.run_id)


def test_a_form_that_is_about_another_run_is_not_on_this_ones_page(visit: OpenPage, fleet: LocalStack) -> None:
    page = visit(live := fleet.client().runs(name="vit").runs[0].run_id)
    for run_id, is_shown in (("another-1", False), (live, True)):
        page.session_state["lifecycle/pending"] = ("rename", {run_id: "vit"})
        page.run()
        assert ("lifecycle/now" in [button.key for button in page.button]) is is_shown
