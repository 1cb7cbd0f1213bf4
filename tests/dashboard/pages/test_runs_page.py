"""The fleet's page as Streamlit runs it, over the answers of a real server: its rows, words and filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
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

NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def fleet(plain_server: LocalStack, scripted_run: type[ScriptedRun]) -> LocalStack:
    """A server with a handful of runs, two of which ended."""
    server = plain_server
    for name, team in (("gpt-small", "speech"), ("gpt-large", "speech"), ("vit", "vision")):
        scripted_run(server, name, steps=100, tags={"team": team})
    scripted_run(server, "spiked", steps=130)
    scripted_run(server, "finished", steps=5).finish()
    scripted_run(server, "failed", steps=5).finish(RunEnd.FAILED, "out of memory")
    return server


@pytest.fixture(scope="module")
def server(plain_server: LocalStack) -> LocalStack:
    """These tests run the app in their own process."""
    return plain_server


@pytest.fixture
def visit(fleet: LocalStack, open_page: OpenPage) -> OpenPage:
    """visit() -> the page of an operator."""
    return open_page


def names(page: AppTest) -> list[str]:
    """The runs of the table, from top to bottom. A run's page has components too, none of which is this table."""
    return [
        row["name"]
        for table in page.get("bidi_component")
        for row in msgspec.json.decode(table.proto.json).get("rows", [])
    ]


def test_the_run_in_trouble_stands_on_top_and_the_page_says_so_in_a_sentence(visit: OpenPage) -> None:
    page = visit()
    assert names(page) == ["failed", "spiked", "vit", "gpt-large", "gpt-small", "finished"]
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
    assert len(names(page)) == 6
    assert page.text_input[0].value == ""


def test_filters_outlive_a_visit_to_a_run(visit: OpenPage, fleet: LocalStack) -> None:
    page = visit()
    page.text_input[0].set_value("vit").run()
    page.pills[0].set_value(["calm"]).run()
    page.multiselect[0].set_value(["team=vision"]).run()
    page.query_params["run"] = next(run.run_id for run in fleet.client().runs().runs if run.name == "vit")
    page.run()
    assert [each.value for each in page.title] == ["vit"]
    assert names(page) == []
    del page.query_params["run"]
    page.run()
    assert names(page) == ["vit"]
    for _ in range(2):  # and however often it is drawn before the browser shows it
        page.run()
        assert page.text_input[0].proto.default == "vit"
        assert page.pills[0].value == ["calm"]
        assert page.multiselect[0].value == ["team=vision"]


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
