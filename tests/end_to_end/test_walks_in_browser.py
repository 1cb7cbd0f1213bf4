"""What operators do, walked in a real browser on jobs that really train: two at once, undo, compare.

Each visitor's walk fails on an error in the console and on a request to a foreign host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect

from steadynorm_dashboard import launch

if TYPE_CHECKING:
    from tests.support.browser import Enter, Visit
    from tests.support.jobs import Job, RunJob
    from tests.support.local_server import RunningStack
    from tests.support.waiting import Eventually


@pytest.fixture(scope="module")
def jobs(stack: RunningStack, run_job: RunJob) -> Iterator[tuple[Job, Job]]:
    """Two trainings that differ in gamma1."""
    with run_job(stack, "walked") as one, run_job(stack, "walked-beside", gamma1=0.9) as other:
        yield one, other


def edit(page: Page, gamma2: str, reason: str) -> None:
    """Type a new gamma2 and why, and press Apply."""
    field = page.get_by_role("spinbutton", name="gamma2")
    field.fill(gamma2)
    field.press("Enter")
    expect(page.get_by_text(f"→ {gamma2}", exact=False).first).to_be_visible()
    page.get_by_label("Reason").fill(reason)
    page.get_by_label("Reason").press("Tab")
    page.get_by_role("button", name="Apply").click()


def test_of_two_operators_the_slower_sees_the_difference_and_either_can_be_undone(
    dashboard: str, jobs: tuple[Job, Job], regular: Visit, enter: Enter, stack: RunningStack, eventually: Eventually
) -> None:
    job = jobs[0]
    ada, ben = regular, enter()
    ada.page.goto(f"{dashboard}/?search=walked")  # other tests' runs are on this server too
    ada.page.get_by_role("link", name="walked", exact=True).click()
    ben.page.goto(launch.link(dashboard, job.run_id))
    ada.settle()
    ben.settle()

    # Ben has an edit that he did not send yet when Ada sends hers.
    field = ben.page.get_by_role("spinbutton", name="gamma1")
    field.fill("0.5")
    field.press("Enter")
    expect(ben.page.get_by_text("gamma1: 0.6 → 0.5")).to_be_visible()
    edit(ada.page, "0.99", "calmer")
    expect(ada.page.get_by_text(re.compile(r"applied @ step \d+")).first).to_be_visible()
    assert job.agent.stabilizers[0].settings.gamma2 == 0.99

    ben.page.get_by_role("button", name="Apply").click()
    told = ben.page.get_by_text("while you were editing").last
    expect(told).to_contain_text("gamma2 0.999 → 0.99")
    expect(ben.page.get_by_role("spinbutton", name="gamma1")).to_have_value("0.5")  # nothing of his is lost
    assert stack.client.run(job.run_id).desired.revision == 1
    ben.page.get_by_role("button", name="Apply").click()
    expect(ben.page.get_by_role("strong").get_by_text("r2", exact=True)).to_be_visible()

    page = ada.page
    expect(page.get_by_role("spinbutton", name="gamma1")).to_have_value("0.5")  # hers follows, she edits nothing
    page.get_by_role("tab", name="Changes").click()
    expect(page.get_by_role("cell", name=re.compile("^applied @ step"))).to_have_count(2)  # nothing moves any more
    page.get_by_text("Undo", exact=True).first.click()
    expect(page.get_by_role("combobox", name="Back to")).to_have_value("r1")
    expect(page.get_by_text("gamma1: 0.5 → 0.6")).to_be_visible()
    page.get_by_role("button", name="Undo", exact=True).click()
    expect(page.get_by_role("strong").get_by_text("r3", exact=True)).to_be_visible()
    expect(page.get_by_role("spinbutton", name="gamma1")).to_have_value("0.6")
    eventually(lambda: stack.client.run(job.run_id).applied.revision == 3)
    expect(page.get_by_role("paragraph").get_by_text(re.compile(r"applied @ step \d+")).first).to_be_visible()
    newest = stack.client.audit(job.run_id).entries[0]
    assert (newest.revision, newest.after, newest.reason) == (3, {"gamma1": 0.6}, "back to r1")


def test_two_runs_are_compared_by_time_and_the_link_can_be_sent(
    dashboard: str, jobs: tuple[Job, Job], regular: Visit, enter: Enter
) -> None:
    one, other = jobs
    page = regular.page
    page.goto(launch.link(dashboard, one.run_id))
    page.get_by_role("link", name="compare").click()
    expect(page.get_by_text("Choose two or more runs above")).to_be_visible()
    page.get_by_role("combobox").first.fill("walked-beside")
    page.get_by_role("option", name=other.run_id).click()
    expect(page.get_by_text("Differences")).to_be_visible()
    expect(page.get_by_text("Choose two or more runs above")).to_have_count(0)
    page.get_by_role("radio", name="by time since start").click()
    chart = page.locator(".steadynorm-chart").first
    names = "node => [...new Set(node.data.filter(trace => trace.showlegend).map(trace => trace.name))]"
    page.wait_for_function(f"node => ({names})(node).length === 2", arg=chart.element_handle())
    assert chart.evaluate(names) == ["walked", "walked-beside"]
    expect(chart.get_by_text("time since the run started")).to_be_visible()
    assert parse_qs(urlsplit(page.url).query) == {
        "compare": [f"{one.run_id},{other.run_id}"],
        "axis": ["elapsed"],
    }

    colleague = enter()
    colleague.page.goto(page.get_by_text(f"/?compare={one.run_id},{other.run_id}").inner_text())
    expect(colleague.page.locator(".steadynorm-chart svg").first).to_be_visible()
    assert colleague.page.locator(".steadynorm-chart").first.evaluate(names) == ["walked", "walked-beside"]
