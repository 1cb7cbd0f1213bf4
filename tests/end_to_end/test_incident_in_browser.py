"""A spike planted in one named tensor of a real training: the incident names it, and the heat map leads to it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import torch
from playwright.sync_api import expect

import steadynorm

if TYPE_CHECKING:
    from tests.support.browser import Visit
    from tests.support.local_server import RunningStack
    from tests.support.waiting import Eventually

ROWS = ["0.weight", "0.bias", "2.weight", "2.bias"]
PLANTED = "2.weight"
PLANTED_AT = 130


@pytest.fixture
def run_id(stack: RunningStack) -> str:
    """A training that ended, in which one step's gradient of PLANTED was a thousand times too large."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with steadynorm.attach(model, optimizer, run="planted", server=stack.server, token=stack.token) as agent:
        for step in range(200):
            loss = model(torch.randn(32, 8)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if step == PLANTED_AT:
                gradient = model.get_parameter(PLANTED).grad
                assert gradient is not None
                gradient.mul_(1000.0)
            optimizer.step()
            agent.log(loss=loss, batch_id=f"shard-7/{step}")
        agent.flush(20.0)  # close() waits for 1.5 s, which this machine may stand still for
        return agent.run_id


def test_a_planted_spike_is_found_from_the_map_from_the_event_and_by_the_link(
    dashboard: str, visit: Visit, stack: RunningStack, run_id: str, eventually: Eventually
) -> None:
    def spiked() -> str | None:
        return next((event.id for event in stack.client.events(run_id).events if event.kind == "spike"), None)

    event_id = eventually(spiked)
    page = visit.page
    front = dashboard.rstrip("/")
    page.goto(f"{front}/?{urlencode({'run': run_id, 'incident': event_id})}")
    expect(page.get_by_role("heading", name=f"Spike in {PLANTED} @ step")).to_be_visible()
    expect(page.get_by_text(f"{PLANTED} at step")).to_be_visible()  # who went first
    expect(page.get_by_text(f"shard-7/{PLANTED_AT}", exact=True)).to_be_visible()
    expect(page.get_by_text(f"{front}/?run={run_id}&incident={event_id}")).to_be_visible()
    charts = page.locator(".steadynorm-chart")
    expect(charts).to_have_count(2)

    # A click on the planted tensor's row opens its page. Rows have the height of a quarter of the plot.
    map_ = charts.nth(1)
    expect(map_.locator(".heatmaplayer image")).to_be_visible()
    plot = map_.locator(".nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    row = {"x": box["width"] / 3, "y": box["height"] * (ROWS.index(PLANTED) + 0.5) / len(ROWS)}
    plot.hover(position=row)  # type: ignore[arg-type]  # TypedDict
    expect(page.locator(".hoverlayer .hovertext")).to_contain_text(PLANTED)
    plot.click(position=row)  # type: ignore[arg-type]  # TypedDict
    expect(page.get_by_role("heading", name=PLANTED)).to_be_visible()
    expect(page.get_by_text("Distribution of its norms")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query) == {"run": [run_id], "parameter": [PLANTED]}
    expect(page.locator(".steadynorm-chart")).to_have_count(2)

    page.get_by_role("link", name="this run").click()
    expect(page.get_by_role("heading", name="planted")).to_be_visible()
    visit.settle()
    expect(page.locator(".heatmaplayer image")).to_be_visible()
