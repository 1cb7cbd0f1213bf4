"""What a request names and a route does not know is refused: it was meant to limit what the request does."""

from __future__ import annotations

from typing import Any

import pytest
from tests.server.api.test_route_roles import AGENT, RULES


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough here."""
    return empty_valkey


async def test_a_misspelled_grace_removes_no_run(agent: Any) -> None:
    for query in ("grace_s=3600", "Grace=3600", "grace=3600&grace=0", "grace=60&force"):
        answer = await agent.client.delete(f"{agent.run}?{query}")
        assert answer.status_code == 422, (query, answer.text)
        assert "must be" in answer.json()["errors"][0]["rule"]
    assert (await agent.get())["state"] == "running"


async def test_a_change_with_dry_run_is_no_change(agent: Any) -> None:
    answer = await agent.change(0, {"gamma2": 0.9}, dry_run=True)
    assert (answer.status_code, "unknown field `dry_run`" in answer.json()["detail"]) == (400, True)
    bulk = {"select": {"name": "*"}, "settings": {"gamma2": 0.9}, "dry_run": False, "revisions": {"tiny-1": 0}}
    answer = await agent.client.post("/settings/bulk", json={**bulk, "exclude": ["tiny-1"]})
    assert (answer.status_code, "unknown field `exclude`" in answer.json()["detail"]) == (400, True)
    assert (await agent.get("/settings"))["revision"] == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [route for route, roles in RULES.items() if roles and AGENT not in roles and route[1].startswith("/api/")],
)
async def test_every_route_of_people_refuses_a_query_parameter_that_it_does_not_have(
    agent: Any, method: str, path: str
) -> None:
    address = path.replace("{run_id}", "tiny-1").replace("{schedule_id}", "a").replace("{proposal_id}", "a")
    answer = await agent.client.request(method, f"http://test{address}?stat=failed")
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith("'stat' is not a query parameter of this address: it must ")


async def test_an_agent_of_a_later_version_may_ask_with_more(agent: Any) -> None:
    assert (await agent.client.get(f"{agent.run}/settings?after_revision=0&since=3")).status_code == 200
