"""The errors that /openapi.json lists for a route are those that it answers with: each one is provoked."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_contract.problems import Problem
from steadynorm_server.app import create_app
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig

RUN = "/api/v1/runs/{run_id}"
ROLES = ("operator", "agent", "viewer", "bound")
ENTRIES = [
    {
        "name": name,
        "role": "agent" if name == "bound" else name,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        **({"runs": ["gpt-*"]} if name == "bound" else {}),
    }
    for name in ROLES
]
BAD_QUERIES = {
    "series": "points=0",
    "heatmap": "points=0",
    "export": "table=x",
    "events": "limit=0",
    "parameters": "limit=0",
    "audit": "limit=0",
    "notes": "limit=0",
    "settings": "wait=-1",
    "runs": "limit=0",
    "fleet": "limit=0",
    "{run_id}": "grace=-1",
}
SENDS = {"POST", "PATCH", "PUT"}
DOCUMENT = create_app(ServerConfig(data=Path("/nowhere")), "redis://nowhere", Tokens.single("x")).openapi()
ERRORS = {
    (method.upper(), path): sorted(int(code) for code in operation["responses"] if int(code) >= 400)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
"""By method and path, what each route declares."""


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough here."""
    return empty_valkey


def test_every_route_declares_what_all_of_its_kind_can_answer_with() -> None:
    for (method, path), statuses in ERRORS.items():
        required = {401, 429} if path.startswith("/api/") else set()
        required |= {403, 503} if path.startswith("/api/") and path != "/api/v1/me" else set()
        required |= {404} if "{run_id}" in path else set()
        required |= {400, 408, 413, 415} if method in SENDS else set()
        assert required <= set(statuses), (method, path)
        for status in statuses:
            content = DOCUMENT["paths"][path][method.lower()]["responses"][str(status)]["content"]
            assert content["application/problem+json"]["example"]["status"] == status
    assert [route for route, statuses in ERRORS.items() if not statuses] == [("GET", "/healthz")]


@dataclass
class Asker:
    """Three servers: one that answers, one that has had enough requests, one without a store."""

    good: httpx.AsyncClient
    busy: httpx.AsyncClient
    away: httpx.AsyncClient
    bodies: dict[tuple[str, str], bytes]
    wrong: dict[tuple[str, str], bytes]

    async def ask(
        self,
        route: tuple[str, str],
        client: httpx.AsyncClient | None = None,
        *,
        token: str | None = None,
        run: str = "tiny-1",
        schedule: str = "absent",
        query: str = "",
        body: Any = None,
        **headers: str,
    ) -> httpx.Response:
        """Ask well, but for what is given. Without a token: as the first role that is let in."""
        method, path = route
        address = path.replace("{run_id}", run).replace("{schedule_id}", schedule).replace("{proposal_id}", schedule)
        sent = self.bodies.get(route, b"") if body is None else body
        given = {"If-Match": '"0"', **{name.replace("_", "-"): value for name, value in headers.items()}}
        for role in [token] if token is not None else ROLES[:3]:
            answer = await (client or self.good).request(
                method,
                f"http://test{address}?{query}",
                content=sent,
                headers={name: value for name, value in {**given, "Authorization": f"Bearer {role}"}.items() if value},
            )
            if answer.status_code not in (401, 403):
                break
        return answer


@pytest.fixture
async def asker(serve: Any, make_agent: Any, tmp_path: Path) -> Asker:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps(ENTRIES))
    tokens = Tokens.configured(ServerConfig(data=tmp_path, tokens_file=file))
    good = await serve(tokens, metrics_auth=True, request_within_s=0.05, rate_per_run=0)
    good.headers["Authorization"] = "Bearer agent"
    agents = [make_agent(good, run_id=run_id) for run_id in ("tiny-1", "ended-1")]
    for agent in agents:
        await agent.register()
    await agents[1].send([1])
    await good.post(f"{agents[1].run}/finish", content=b'{"state": "finished"}')
    del good.headers["Authorization"]
    rule = {"id": "a", "when": {"scalar": "loss", "comparison": ">", "value": 9}, "settings": {"paused": True}}
    batch = agents[0].batch(1, [1])
    return Asker(
        good,
        await serve(tokens, metrics_auth=True, rate_per_token=0.001),
        await serve(tokens, url="redis://127.0.0.1:1", metrics_auth=True),
        {
            ("POST", "/api/v1/runs"): encode_json(agents[0].registration),
            ("POST", f"{RUN}/telemetry"): encode_batch(batch),
            ("POST", f"{RUN}/finish"): b'{"state": "finished"}',
            ("PATCH", f"{RUN}/settings"): b'{"settings": {"gamma2": 0.9}}',
            ("POST", "/api/v1/settings/bulk"): b'{"select": {"name": "*"}, "settings": {"gamma2": 0.9}}',
            ("POST", f"{RUN}/schedules"): b'{"from_step": 9, "settings": {"gamma2": 0.9}}',
            ("POST", f"{RUN}/proposals"): b'{"revision": 0, "settings": {"gamma2": 0.9}}',
            ("POST", f"{RUN}/proposals/{{proposal_id}}"): b'{"approve": false}',
            ("POST", f"{RUN}/notes"): b'{"text": "new data"}',
            ("PUT", f"{RUN}/rules"): encode_json({"rules": [rule]}),
            ("PUT", f"{RUN}/retention"): b'{"max_mib": 16}',
            ("PATCH", RUN): b'{"name": "tiny"}',
            ("POST", f"{RUN}/restore"): b"{}",
        },
        {
            ("POST", "/api/v1/runs"): encode_json(msgspec.structs.replace(agents[0].registration, name="")),
            ("POST", f"{RUN}/telemetry"): encode_batch(
                msgspec.structs.replace(batch, rows=agents[0].rows([1], [[[1, 1, 1, 1, 1]]], 1))
            ),
            ("PATCH", f"{RUN}/settings"): b'{"settings": {"gamma2": 2}}',
            ("POST", "/api/v1/settings/bulk"): b'{"select": {"name": "*"}, "settings": {"gamma2": 2}}',
            ("POST", f"{RUN}/schedules"): b'{"from_step": 9, "settings": {"gamma2": 2}}',
            ("POST", f"{RUN}/proposals"): b'{"revision": 0, "settings": {"gamma2": 2}}',
            ("POST", f"{RUN}/proposals/{{proposal_id}}"): encode_json({"approve": False, "reason": "x" * 501}),
            ("POST", f"{RUN}/notes"): b'{"text": ""}',
            ("PUT", f"{RUN}/rules"): encode_json({"rules": [rule | {"settings": {"gamma2": 2}}]}),
            ("PUT", f"{RUN}/retention"): b'{"max_mib": 0}',
            ("PATCH", RUN): b'{"name": " "}',
            ("POST", f"{RUN}/restore"): encode_json({"reason": "x" * 501}),
        },
    )


async def slow() -> AsyncIterator[bytes]:
    """A body that never ends."""
    yield b"{"
    await asyncio.Event().wait()


async def done_schedule(asker: Asker) -> str:
    """A schedule that was carried out."""
    made = await asker.ask(("POST", f"{RUN}/schedules"), body=b'{"from_step": 1, "settings": {"gamma2": 0.9}}')
    assert made.status_code == 201, made.text
    assert (await asker.ask(("POST", f"{RUN}/telemetry"))).status_code == 200
    return str(made.json()["id"])


async def proposal(asker: Asker) -> str:
    """An open one."""
    made = await asker.ask(("POST", f"{RUN}/proposals"), token="operator")
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def provoke(asker: Asker, route: tuple[str, str], status: int) -> httpx.Response:
    """Ask so that the answer should be `status`."""
    method, path = route
    match status:
        case 400:
            return await asker.ask(route, body=b"{")
        case 401:
            return await asker.ask(route, token="nobody")
        case 403:
            for role in ("viewer", "agent", "bound"):
                answer = await asker.ask(route, token=role)
                if answer.status_code == 403:
                    break
            return answer
        case 404:
            return await asker.ask(route, run="unknown")
        case 408:
            return await asker.ask(route, body=slow())
        case 409 if route == ("DELETE", RUN):
            return await asker.ask(route, query="grace=60")
        case 409 if route == ("PATCH", RUN):
            return await asker.ask(route, body=b'{"archived": true}')
        case 409 if method == "DELETE":
            return await asker.ask(route, schedule=await done_schedule(asker))
        case 409 if path.endswith("{proposal_id}"):
            made = await proposal(asker)
            await asker.ask(route, schedule=made)
            return await asker.ask(route, schedule=made)
        case 412 if path.endswith("{proposal_id}"):
            return await asker.ask(route, schedule=await proposal(asker), body=b'{"approve": true}', If_Match='"7"')
        case 412 if path.endswith("/proposals"):
            return await asker.ask(route, body=b'{"revision": 7, "settings": {"gamma2": 0.9}}')
        case 409 if path.endswith("/notes"):
            event = (await asker.ask(("GET", f"{RUN}/events"))).json()["events"][0]["id"]
            for name in ("ada", "bob"):
                body = encode_json({"action": "take", "event": event, "to": name})
                answer = await asker.ask(route, token="operator", body=body)
            return answer
        case 409 if path.endswith("/telemetry"):
            body = msgspec.msgpack.decode(asker.bodies[route])
            return await asker.ask(route, body=msgspec.msgpack.encode(body | {"incarnation": 9}))
        case 409 if path.endswith("/finish"):
            return await asker.ask(route, body=b'{"state": "finished", "incarnation": 9}')
        case 409:
            return await asker.ask(route, run="ended-1")
        case 412 if path.endswith("/retention"):
            return await asker.ask(route, body=b'{"revision": 7}')
        case 412 if method == "PUT":
            return await asker.ask(route, body=b'{"rules": [], "revision": 7}')
        case 412:
            return await asker.ask(route, If_Match='"7"')
        case 413:
            return await asker.ask(route, body=b" " * (32 * 2**20 + 1))
        case 415:
            return await asker.ask(route, Content_Type="text/plain")
        case 422 if method in SENDS:
            return await asker.ask(route, body=asker.wrong[route])
        case 422:
            return await asker.ask(route, query=BAD_QUERIES.get(path.rpartition("/")[2], "unknown=1"))
        case 428 if path.endswith("/bulk"):
            return await asker.ask(route, body=asker.bodies[route][:-1] + b', "dry_run": false}')
        case 428:
            return await asker.ask(route, If_Match="")
        case 429:
            for role in ROLES:
                await asker.ask(route, asker.busy, token=role, run="absent")
            return await asker.ask(route, asker.busy, run="absent")
        case _:
            return await asker.ask(route, asker.away)


@pytest.mark.slow
async def test_each_listed_error_is_one_that_the_route_answers_with(asker: Asker) -> None:
    wrong = []
    for route, statuses in ERRORS.items():
        for status in statuses:
            answer = await provoke(asker, route, status)
            if answer.status_code != status:
                wrong.append((route, status, answer.status_code, answer.text[:200]))
                continue
            assert answer.headers["content-type"] == "application/problem+json"
            assert msgspec.json.decode(answer.content, type=Problem).status == status
    assert wrong == []
