"""Proposed changes are decided on the page of the run; one whose base is gone can only be refused there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from streamlit.testing.v1 import AppTest
from tests.dashboard.panels.test_automation import APP, EVIL

from steadynorm_contract.codec import encode_json
from steadynorm_contract.proposals import ProposalState
from steadynorm_contract.telemetry import RunRegistration

if TYPE_CHECKING:
    from tests.support.local_server import RunningStack


def test_a_person_decides_on_what_is_proposed(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
    registration = encode_json(RunRegistration(name="proposed", run_id="proposed-1"))
    made = urllib3.request("POST", f"{stack.server}/api/v1/runs", body=registration, headers=headers)
    assert made.status == 201, made.data
    client = stack.client
    first = client.propose("proposed-1", {"gamma2": 0.99}, revision=0, reason=EVIL)
    second = client.propose("proposed-1", {"gamma1": 0.5}, revision=0)
    monkeypatch.setenv("STEADYNORM_SERVER", stack.server)
    page = AppTest.from_file(str(APP), default_timeout=60)
    page.query_params.update({"run": "proposed-1", "token": stack.token})
    page.run()
    assert not page.exception
    assert "Proposed changes" in [each.value for each in page.header]
    texts = [each.value for each in page.markdown]
    assert any("gamma2" in text and "99" in text for text in texts), texts
    assert not any("<b>" in text or "\x1b" in text for text in texts)

    def button(proposal: Any, label: str) -> Any:
        return page.button(key=f"proposed-1/proposals/{proposal.id}/{label}")

    button(first, "Approve").click().run()
    assert not page.exception
    now = client.settings("proposed-1")
    assert (now.revision, now.settings.gamma2) == (1, 0.99)
    page.run()
    assert button(second, "Approve").disabled
    assert "It is based on r0, and the settings are at r1: it can be refused." in [one.value for one in page.caption]
    button(second, "Refuse").click().run()
    states = {each.id: each.state for each in client.proposals("proposed-1").proposals}
    assert states == {first.id: ProposalState.APPROVED, second.id: ProposalState.REFUSED}
    page.run()
    assert "Proposed changes" not in [each.value for each in page.header]
