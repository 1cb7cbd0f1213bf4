"""The page of an incident as Streamlit runs it: who went first, who is not accused, and where it leads to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from streamlit.testing.v1 import AppTest
from tests.support.dashboard import tables

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.series import Heatmap
from steadynorm_dashboard import runbook
from steadynorm_dashboard.formatting import numbers
from steadynorm_dashboard.pages import incident

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, ScriptedRun


@pytest.fixture(scope="module")
def run(server: LocalStack, scripted_run: type[ScriptedRun]) -> ScriptedRun:
    """A run that spiked in three parameters of step 120."""
    return scripted_run(server, "spiked", steps=200, batch_id="shard-006/37")


@pytest.fixture
def spike(run: ScriptedRun, server: LocalStack) -> Event:
    """Its spike."""
    events = server.client().events(run.run_id).events
    return next(event for event in events if event.kind is EventKind.SPIKE)


def said(app: AppTest) -> str:
    kinds = (app.title, app.header, app.markdown, app.caption, app.info)
    return "\n".join(str(element.value) for kind in kinds for element in kind).replace("\\", "")


def plain(app: AppTest) -> str:
    return said(app).replace("**", "").replace("\u2060", "")


def table(app: AppTest) -> Any:
    return next(each for each in tables(app) if "order" in each[0])


def test_those_of_the_events_own_step_went_first_together(open_page: OpenPage, run: ScriptedRun, spike: Event) -> None:
    page = open_page(run.run_id, incident=spike.id)
    assert "at step 120, in the same step as 2 others" in said(page)
    assert [row["order"] for row in table(page)] == ["1", "1", "1"]


def without(step: int, whole: Heatmap) -> Heatmap:
    """The matrix as it is when the rows up to `step` were let go."""
    left = [at for at, each in enumerate(whole.step) if each > step]
    return Heatmap(
        whole.signal,
        whole.parameters,
        [whole.step[at] for at in left],
        [1] * len(left),
        [0.0] * len(left),
        [[row[at] for at in left] for row in whole.extreme],
    )


def test_nobody_of_a_later_step_is_accused_where_the_events_own_rows_are_gone(
    open_page: OpenPage, run: ScriptedRun, spike: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = incident._read

    def read(*asked: Any) -> tuple[Heatmap, ...]:
        norms, ratios, targets = (without(spike.step, one) for one in whole(*asked))
        ratios.extreme[-1][0] = 40.0  # the head spikes afterwards
        return norms, ratios, targets

    monkeypatch.setattr(incident, "_read", read)
    page = open_page(run.run_id, incident=spike.id)
    assert "The rows of step 120 are no longer stored, so the first affected parameter is unknown." in said(page)
    assert f"The event itself names **{spike.parameter}**" in said(page)
    assert "**head.weight** at step" not in said(page)
    assert [(row["parameter"], row["order"]) for row in table(page)] == [("head.weight", numbers.MISSING)]


def test_it_leads_to_the_runbook_and_back_to_the_charts_of_that_time(
    open_page: OpenPage, run: ScriptedRun, spike: Event
) -> None:
    page = open_page(run.run_id, incident=spike.id)
    links = {link.proto.label: link.proto.query_string for link in page.get("page_link")}
    assert "runbook=SteadynormSpikeStorm" in links["What to do"]
    assert f"run={run.run_id}" in links["What to do"]
    next(button for button in page.button if button.label == "Charts around this step").click().run()
    assert not page.exception, page.exception
    assert "incident" not in page.query_params
    assert "Steps 0 to 199 at full resolution." in said(page)


def test_the_throttling_leads_to_its_spike_and_ends_by_a_button(
    open_page: OpenPage, run: ScriptedRun, spike: Event, server: LocalStack
) -> None:
    events = server.client().events(run.run_id).events
    throttled = next(event for event in events if event.kind is EventKind.THROTTLED)
    page = open_page(run.run_id, incident=throttled.id)
    assert f"Caused by the spike ×{spike.value:.3g} in {spike.parameter} at step 120, batch shard-006/37." in plain(
        page
    )
    assert next(code.value for code in page.code) == "shard-006/37"
    assert "The run is still throttled: updates are" in plain(page)
    links = {link.proto.label: link.proto.query_string for link in page.get("page_link")}
    assert f"incident={spike.id}" in links["Spike at step 120"]
    page = open_page(run.run_id, incident=spike.id)
    told = r"This spike still throttles the run: updates are [\d.]+ times too small, for about [\d,]+ more steps\."
    assert re.search(told, plain(page))
    consequence = "It does not end the throttling that is there"  # of preset robust, for the next spikes
    assert consequence not in plain(page), "it takes requests, and is asked for once it is opened"
    page.session_state[f"{run.run_id}/incident/robust/open"] = True
    page.run()
    assert consequence in plain(page)
    page.button(key=f"{run.run_id}/incident/reset/go").click().run()
    assert server.client().audit(run.run_id).entries[0].after == {"reset_generation": 1}
    page = open_page(run.run_id, runbook="SteadynormThrottled")
    assert f"steadynorm set {run.run_id} gamma2=0.99" in [code.value for code in page.code]
    next(button for button in page.button if button.label == "Apply" and "gamma2=0.99" in str(button.key)).click().run()
    assert server.client().audit(run.run_id).entries[0].after == {"gamma2": 0.99}


def test_every_runbook_that_an_incident_leads_to_is_there() -> None:
    assert set(runbook.ALERTS.values()) <= set(runbook.titles())
