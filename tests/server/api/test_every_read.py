"""What holds for every route that reads, taken from /openapi.json: pages where a list can be long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from steadynorm_contract.telemetry import Parameter
from steadynorm_server.app import create_app
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig

DOCUMENT = create_app(ServerConfig(data=Path("/nowhere")), "redis://nowhere", Tokens.single("x")).openapi()
READS = sorted(path for path, item in DOCUMENT["paths"].items() if "get" in item and path.startswith("/api/"))

BOUNDED = {
    "TokenInfo": "a token has three roles and the patterns of its entry",
    "ScheduleList": "20 that wait, and the last ones that were done",
    "RuleList": "20 rules",
    "ProposalList": "20 open ones, and the last 20 that were decided",
    "RunDetail": "50 incidents that were taken, and the newest findings of the agent's check of its loop, each once",
    "Retention": "the last 20 changes of it",
    "FleetResponse": "as many runs as `limit` says, 1,000 at most, and how many more there are",
    "Heatmap": "its cells are bounded: more parameters get fewer buckets",
}
"""Answers with lists that need no pages, and why."""


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough here."""
    return empty_valkey


def test_every_list_that_can_be_long_comes_in_pages() -> None:
    paged = set()
    for path in READS:
        operation = DOCUMENT["paths"][path]["get"]
        content = operation["responses"]["200"]["content"]
        if "application/json" not in content:
            continue
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        properties = DOCUMENT["components"]["schemas"][name]["properties"]
        lists = [each for each, schema in properties.items() if schema.get("type") == "array"]
        if not lists or name in BOUNDED:
            continue
        assert "next" in properties, f"{name} of {path}: say in BOUNDED why {', '.join(lists)} cannot be long"
        assert {"limit", "cursor"} <= {each["name"] for each in operation["parameters"]}, path
        paged.add(name)
    assert paged == {"RunList", "EventList", "AuditList", "ParameterList", "NoteList"}


async def test_parameters_come_in_pages(api: httpx.AsyncClient, make_agent: Any) -> None:
    names = [f"blocks.{at}.weight" for at in range(25)]
    agent = make_agent(api, parameters=[Parameter(name, (at + 1,), "float32") for at, name in enumerate(names)])
    await agent.register()
    await agent.send([7], rows=agent.rows([7], [[[at, 1, 1, 1, at + 0.5] for at in range(25)]], 25))
    whole = await agent.get("/parameters")
    assert ([each["raw_norm"] for each in whole["parameters"]], whole["next"]) == (list(range(25)), None)
    found: list[Any] = []
    page = await agent.get("/parameters", limit=10)
    while page["next"]:
        found += page["parameters"]
        assert (len(page["parameters"]), page["step"]) == (10, 7)
        page = await agent.get("/parameters", limit=10, cursor=page["next"])
    assert found + page["parameters"] == whole["parameters"]
    assert await agent.get("/parameters", cursor="999999") == {"step": 7, "parameters": [], "next": None}
    for bad in ("limit=0", "limit=10001", "cursor=x", "cursor=0", "cursor=-1", "cursor=%C3%A9"):
        assert (await api.get(f"{agent.run}/parameters?{bad}")).status_code == 422
