"""Every route × who asks, from the route table itself: a route without a rule here fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_server.app import create_app
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig

AGENT, VIEWER, OPERATOR, PROPOSER = "agent", "viewer", "operator", "proposer"
PEOPLE = frozenset({VIEWER, OPERATOR, PROPOSER})
PUBLIC = None
"""Open to everybody: says nothing about runs."""

RULES: dict[tuple[str, str], frozenset[str] | None] = {
    ("GET", "/"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
    ("GET", "/healthz"): PUBLIC,
    ("GET", "/readyz"): PUBLIC,
    ("GET", "/metrics"): PEOPLE,  # with STEADYNORM_METRICS_AUTH, as here
    ("GET", "/api/v1/me"): PEOPLE | {AGENT},
    ("POST", "/api/v1/settings/bulk"): frozenset({OPERATOR}),
    ("GET", "/api/v1/fleet"): PEOPLE,
    ("GET", "/api/v1/runs"): PEOPLE,
    ("POST", "/api/v1/runs"): frozenset({AGENT}),
    ("GET", "/api/v1/runs/{run_id}"): PEOPLE,
    ("DELETE", "/api/v1/runs/{run_id}"): frozenset({OPERATOR}),
    ("PATCH", "/api/v1/runs/{run_id}"): frozenset({OPERATOR}),
    ("POST", "/api/v1/runs/{run_id}/restore"): frozenset({OPERATOR}),
    ("GET", "/api/v1/runs/{run_id}/audit"): PEOPLE,
    ("GET", "/api/v1/runs/{run_id}/events"): PEOPLE,
    ("GET", "/api/v1/runs/{run_id}/export"): PEOPLE,
    ("POST", "/api/v1/runs/{run_id}/finish"): frozenset({AGENT}),
    ("GET", "/api/v1/runs/{run_id}/heatmap"): PEOPLE,
    ("GET", "/api/v1/runs/{run_id}/notes"): PEOPLE,
    ("POST", "/api/v1/runs/{run_id}/notes"): frozenset({AGENT, OPERATOR}),
    ("GET", "/api/v1/runs/{run_id}/parameters"): PEOPLE,
    ("GET", "/api/v1/runs/{run_id}/configuration"): PEOPLE,
    ("GET", "/api/v1/runs/{run_id}/retention"): PEOPLE,
    ("PUT", "/api/v1/runs/{run_id}/retention"): frozenset({OPERATOR}),
    ("GET", "/api/v1/runs/{run_id}/rules"): PEOPLE,
    ("PUT", "/api/v1/runs/{run_id}/rules"): frozenset({OPERATOR}),
    ("GET", "/api/v1/runs/{run_id}/schedules"): PEOPLE,
    ("POST", "/api/v1/runs/{run_id}/schedules"): frozenset({OPERATOR}),
    ("DELETE", "/api/v1/runs/{run_id}/schedules/{schedule_id}"): frozenset({OPERATOR}),
    ("GET", "/api/v1/runs/{run_id}/proposals"): PEOPLE,
    ("POST", "/api/v1/runs/{run_id}/proposals"): frozenset({PROPOSER, OPERATOR}),
    ("POST", "/api/v1/runs/{run_id}/proposals/{proposal_id}"): frozenset({OPERATOR}),
    ("GET", "/api/v1/runs/{run_id}/series"): PEOPLE,
    ("GET", "/api/v1/runs/{run_id}/settings"): PEOPLE | {AGENT},
    ("PATCH", "/api/v1/runs/{run_id}/settings"): frozenset({OPERATOR}),
    ("POST", "/api/v1/runs/{run_id}/telemetry"): frozenset({AGENT}),
}
"""A new route stands here with the roles that it opens to, or it fails."""

ENTRIES = [
    {"name": role, "role": role, "sha256": hashlib.sha256(f"{role}-token".encode()).hexdigest()}
    for role in (AGENT, VIEWER, OPERATOR, PROPOSER)
] + [
    {
        "name": f"bound {role}",
        "role": role,
        "sha256": hashlib.sha256(f"bound-{role}-token".encode()).hexdigest(),
        "runs": ["gpt-*"],
    }
    for role in (AGENT, VIEWER, OPERATOR, PROPOSER)
]


@dataclass
class Guarded:
    """A server over one store, with the run tiny-1."""

    client: httpx.AsyncClient
    bodies: dict[tuple[str, str], bytes]

    async def ask(self, method: str, path: str, authorization: str | None) -> httpx.Response:
        """Really ask, about the run tiny-1, with a body that is good where the route takes one."""
        headers = {"If-Match": '"0"', **({"Authorization": authorization} if authorization is not None else {})}
        address = path.replace("{run_id}", "tiny-1").replace("{", "").replace("}", "")
        return await self.client.request(
            method, f"http://test{address}", headers=headers, content=self.bodies.get((method, path), b"{}")
        )


@pytest.fixture
async def guarded(serve: Any, tmp_path: Path, make_agent: Any) -> Guarded:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(ENTRIES))
    client = await serve(Tokens.configured(ServerConfig(data=tmp_path, tokens_file=file)), metrics_auth=True)
    client.headers["Authorization"] = "Bearer agent-token"
    agent = make_agent(client)
    await agent.register()
    del client.headers["Authorization"]
    return Guarded(
        client,
        {
            ("POST", "/api/v1/runs"): encode_json(agent.registration),
            ("POST", "/api/v1/runs/{run_id}/telemetry"): encode_batch(agent.batch(1, [1])),
            ("POST", "/api/v1/runs/{run_id}/finish"): b'{"state": "finished"}',
            ("POST", "/api/v1/runs/{run_id}/notes"): b'{"text": "new data"}',
            ("POST", "/api/v1/runs/{run_id}/proposals"): b'{"revision": 0, "settings": {"gamma2": 0.9}}',
            ("POST", "/api/v1/runs/{run_id}/proposals/{proposal_id}"): b'{"approve": true}',
            ("PATCH", "/api/v1/runs/{run_id}/settings"): b'{"settings": {"gamma2": 0.9}}',
        },
    )


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough here: it never decides who may ask."""
    return empty_valkey


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, those of included routers and those outside the schema too."""
    for route in app.routes:
        found: Iterable[Any] = (
            route.effective_route_contexts() if hasattr(route, "effective_route_contexts") else [route]
        )
        for each in found:
            assert each.path, f"{route} has no path: what does it open?"
            yield from ((method, each.path) for method in (each.methods or {"GET"}) - {"HEAD", "OPTIONS"})


def test_every_route_has_a_rule(tmp_path: Path) -> None:
    found = set(routes(create_app(ServerConfig(data=tmp_path), "redis://nowhere", Tokens.single("x"))))
    assert len(found) > 15
    assert found - set(RULES) == set(), "say in RULES of this file who may ask these routes"
    assert set(RULES) - found == set(), "these routes are gone"


@pytest.mark.parametrize(("method", "path"), RULES)
async def test_a_route_opens_to_its_roles_and_to_nobody_else(guarded: Guarded, method: str, path: str) -> None:
    allowed = RULES[method, path]
    for authorization in (
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Basic b3Atc2VjcmV0",
        "agent-token",
        "Bearer viewer-toke",
    ):
        answer = await guarded.ask(method, path, authorization)
        assert (answer.status_code == 401) == (allowed is not None), (authorization, answer.text)
        if allowed is not None:
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
    for role in (AGENT, VIEWER, OPERATOR, PROPOSER):
        answer = await guarded.ask(method, path, f"Bearer {role}-token")
        assert (answer.status_code == 403) == (allowed is not None and role not in allowed), (role, answer.text)
        assert answer.status_code != 401
        assert answer.status_code < 500


@pytest.mark.parametrize(
    ("role", "method", "path"),
    [
        (role, *rule)
        for rule, roles in RULES.items()
        for role in sorted(roles or ())
        if "{run_id}" in rule[1] or (rule == ("POST", "/api/v1/runs"))
    ],
)
async def test_a_token_bound_to_other_runs_is_refused_on_every_route_of_a_run(
    guarded: Guarded, role: str, method: str, path: str
) -> None:
    before = (await guarded.ask("GET", "/api/v1/runs/{run_id}", "Bearer viewer-token")).json()
    answer = await guarded.ask(method, path, f"Bearer bound-{role}-token")
    assert answer.status_code == 403
    assert f"'bound {role}' is bound to runs named gpt-*: 'tiny' is not among them" in answer.json()["detail"]
    after = (await guarded.ask("GET", "/api/v1/runs/{run_id}", "Bearer viewer-token")).json()
    assert after["desired"] == before["desired"]


async def test_a_token_bound_to_other_runs_sees_none_of_them_in_lists(guarded: Guarded) -> None:
    bound, free = "Bearer bound-operator-token", "Bearer operator-token"
    for path, count in (
        ("/api/v1/runs", lambda told: len(told["runs"])),
        ("/api/v1/fleet", lambda told: (told["total"], told["matching"], sum(told["states"].values()))),
    ):
        assert count((await guarded.ask("GET", path, bound)).json()) in (0, (0, 0, 0))
        assert count((await guarded.ask("GET", path, free)).json()) in (1, (1, 1, 1))
    for asked in ("?visibility=listed", "?name=tiny", "?search=tiny"):
        assert (await guarded.ask("GET", f"/api/v1/fleet{asked}", bound)).json()["runs"] == []
    assert 'run_id="tiny-1"' not in (await guarded.ask("GET", "/metrics", "Bearer bound-viewer-token")).text
    assert 'run_id="tiny-1"' in (await guarded.ask("GET", "/metrics", "Bearer viewer-token")).text
    for select in ({"name": "*"}, {"run_ids": ["tiny-1"]}):
        body = encode_json({"select": select, "settings": {"gamma2": 0.9}, "dry_run": True})
        guarded.bodies["POST", "/api/v1/settings/bulk"] = body
        assert (await guarded.ask("POST", "/api/v1/settings/bulk", bound)).json()["runs"] == []
        assert len((await guarded.ask("POST", "/api/v1/settings/bulk", free)).json()["runs"]) == 1


async def test_a_bound_token_reads_and_changes_its_own_runs(serve: Any, tmp_path: Path, make_agent: Any) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(ENTRIES))
    client = await serve(Tokens.configured(ServerConfig(data=tmp_path, tokens_file=file)))
    client.headers["Authorization"] = "Bearer bound-agent-token"
    agent = make_agent(client, name="gpt-small", run_id="own")
    await agent.register()
    client.headers["Authorization"] = "Bearer bound-operator-token"
    assert [run["run_id"] for run in (await client.get("/runs")).json()["runs"]] == ["own"]
    changed = await client.patch("/runs/own/settings", json={"settings": {"gamma2": 0.9}}, headers={"If-Match": '"0"'})
    assert changed.status_code == 200
    # The name that counts is the agent's: a rename gives nobody a run, and takes none away.
    assert (await client.patch("/runs/own", json={"name": "other"})).status_code == 200
    assert [run["name"] for run in (await client.get("/runs")).json()["runs"]] == ["other"]
    assert (await client.get("/runs/own")).status_code == 200


async def test_a_token_is_told_what_it_is(guarded: Guarded) -> None:
    told = {
        name: (await guarded.ask("GET", "/api/v1/me", f"Bearer {name}-token")).json()
        for name in (AGENT, VIEWER, OPERATOR, "bound-viewer")
    }
    assert told == {
        AGENT: {"name": "agent", "roles": ["agent"], "runs": None},
        VIEWER: {"name": "viewer", "roles": ["viewer"], "runs": None},
        OPERATOR: {"name": "operator", "roles": ["operator", "viewer"], "runs": None},
        "bound-viewer": {"name": "bound viewer", "roles": ["viewer"], "runs": ["gpt-*"]},
    }
