"""A change on a job that really trains: by the browser, and by plain HTTP calls as a shell script would make them."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from steadynorm_cli.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.support.browser import Enter, Visit
    from tests.support.jobs import StartJob
    from tests.support.local_server import RunningStack
    from tests.support.waiting import Eventually


@pytest.fixture
def home_with_dashboard(stack: RunningStack) -> Iterator[LocalStack]:
    """The session's server with a dashboard in front of it, as its user would start one."""
    with LocalStack(stack.home, dashboard_port=0, reuse_running=True, environ=stack.environment) as running:
        yield running


def test_an_operator_changes_gamma2_of_a_running_training_and_reads_the_step(
    home_with_dashboard: LocalStack, visit: Visit, enter: Enter, stack: RunningStack, start_job: StartJob
) -> None:
    job = start_job(stack, "browser")
    page = visit.page
    page.goto(home_with_dashboard.link())  # no token to copy: it is the same user
    visit.open_run("browser")
    visit.settle()

    gamma2 = page.get_by_role("spinbutton", name="gamma2")
    gamma2.fill("0.99")
    gamma2.press("Enter")
    page.get_by_label("Reason").fill("end to end")
    page.get_by_role("button", name="Apply").click()
    applied = page.get_by_text(re.compile(r"applied @ step \d+")).first
    expect(applied).to_be_visible()

    (stabilizer,) = job.agent.stabilizers
    assert stabilizer.settings.gamma2 == 0.99
    run = stack.client.run(job.run_id)
    assert f"applied @ step {run.applied.step}" in (applied.text_content() or "")
    assert 0 < run.applied.step <= job.agent.step

    # Whoever else uses the machine comes to the same address, without the link: they are nobody.
    stranger = enter().page
    stranger.goto(page.url)
    expect(stranger.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(stranger.get_by_text(f"steadynorm link {job.run_id}")).to_be_visible()
    expect(stranger.get_by_role("button", name="Apply")).to_have_count(0)


class Curl:
    """HTTP without any of our code. Answers are (status, headers, JSON)."""

    def __init__(self, stack: RunningStack) -> None:
        self._base, self._token = f"{stack.server}/api/v1", stack.token

    def __call__(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, method=method)
        for name, value in {
            "Authorization": f"Bearer {self._token}",
            "Content-Type": "application/json",
            **headers,
        }.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers), json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), json.load(error)


BAD_VALUES = [
    ("mode", "on"),
    ("gamma1", 1),
    ("gamma1", -0.1),
    ("gamma2", 1.0),
    ("gamma2", "0.9"),
    ("gamma2", None),
    ("gamma2", True),
    ("eps", 0),
    ("eps", 0.01),
    ("spike_limit", 1),
    ("transfer", "soft"),
    ("lr_scale", 11),
    ("paused", 1),
    ("stop", "yes"),
    ("reset_generation", -1),
    ("checkpoint_generation", 1.5),
    ("gamma3", 0.5),
]


def test_the_same_by_plain_http(stack: RunningStack, start_job: StartJob, eventually: Eventually) -> None:
    job, curl = start_job(stack, "curl"), Curl(stack)
    path = f"/runs/{job.run_id}"
    eventually(lambda: curl("GET", path)[0] == 200)

    status, headers, desired = curl("GET", f"{path}/settings")
    assert (status, headers["etag"], desired["revision"]) == (200, '"0"', 0)
    change = {"settings": {"gamma2": 0.99}, "reason": "by curl"}
    assert curl("PATCH", f"{path}/settings", change)[0] == 428  # nobody may change what they have not read
    status, headers, desired = curl("PATCH", f"{path}/settings", change, If_Match='"0"')
    assert (status, headers["etag"], desired["revision"], desired["settings"]["gamma2"]) == (200, '"1"', 1, 0.99)

    applied = eventually(lambda: (found := curl("GET", path)[2]["applied"])["revision"] == 1 and found)
    assert applied["settings"]["gamma2"] == 0.99
    assert applied["step"] > 0

    status, _, problem = curl("PATCH", f"{path}/settings", {"settings": {"gamma2": 0.5}}, If_Match='"0"')
    assert (status, problem["status"]) == (412, 412)
    assert "1" in problem["detail"]

    for field, value in BAD_VALUES:
        status, headers, problem = curl("PATCH", f"{path}/settings", {"settings": {field: value}}, If_Match='"1"')
        assert (status, headers["content-type"]) == (422, "application/problem+json"), (field, value)
        (error,) = problem["errors"]
        assert error["field"] == field
        assert error["rule"]
        assert field in problem["detail"]
    broken = b'{"settings": {"gamma2": NaN}}'
    assert curl("PATCH", f"{path}/settings", broken, If_Match='"1"')[0] in (400, 422)
    assert curl("GET", f"{path}/settings")[2] == desired
    assert len(curl("GET", f"{path}/audit")[2]["entries"]) == 1


def test_training_goes_on_when_there_is_no_server_and_says_so_once(
    stack: RunningStack, start_job: StartJob, eventually: Eventually, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = type(stack)(tmp_path, "http://127.0.0.1:9", "none", stack.client, stack.environment)
    job = start_job(nowhere, "alone")
    eventually(lambda: job.agent.step >= 300)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in warnings if "http://127.0.0.1:9" in text]) == 1
    counters = job.agent.counters
    assert counters.errors == 0
    assert counters.buffered > 0
    assert counters.produced == counters.acknowledged + counters.dropped + counters.buffered
