"""/openapi.json shows an example of all that a route takes and gives; each fits its schema, and each request works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import msgspec
import pytest

from steadynorm_contract.codec import encode_batch
from steadynorm_contract.telemetry import TelemetryBatch
from steadynorm_server.app import create_app
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig

DOCUMENT = create_app(ServerConfig(data=Path("/nowhere")), "redis://nowhere", Tokens.single("x")).openapi()
OPERATIONS = [
    (method, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]  # fmt: skip
NAMES = [f"{method.upper()} {path}" for method, path, _ in OPERATIONS]


def contents(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(media type, {"schema", "example"}) of the body and of every answer."""
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        yield from part.get("content", {}).items()


@pytest.mark.parametrize(("method", "path", "operation"), OPERATIONS, ids=NAMES)
def test_every_route_shows_what_it_takes_and_gives(method: str, path: str, operation: dict[str, Any]) -> None:
    assert operation["responses"], path
    for media_type, shown in contents(operation):
        if media_type == "application/vnd.apache.parquet":
            continue
        assert "example" in shown, f"{media_type} of {method} {path}: give its struct an example in examples.json"
        schema = {**shown["schema"], "components": DOCUMENT["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate(shown["example"])
    for parameter in operation.get("parameters", ()):
        assert "example" in parameter, f"{parameter['name']} of {method} {path}: examples.json"
        schema = {**parameter["schema"], "components": DOCUMENT["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate(parameter["example"])


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough here."""
    return empty_valkey


ORDER = ["POST /api/v1/runs", "POST /api/v1/runs/{run_id}/telemetry", "GET", "PATCH", "PUT", "POST /api", "DELETE"]
"""What begins with an earlier one goes first; what is not named here after the GETs."""
LAST = ["POST /api/v1/runs/{run_id}/finish", "DELETE /api/v1/runs/{run_id}"]


def turn(operation: tuple[str, str, dict[str, Any]]) -> int:
    """When in a run's life this is asked."""
    name = f"{operation[0].upper()} {operation[1]}"
    if name in LAST:
        return len(ORDER) + LAST.index(name)
    exact = [at for at, begin in enumerate(ORDER[:2]) if name == begin]
    return exact[0] if exact else next(at for at, begin in enumerate(ORDER) if at > 1 and name.startswith(begin))


async def test_every_request_that_is_shown_works_as_it_stands(api: httpx.AsyncClient) -> None:
    schedule = proposal = ""
    for method, path, operation in sorted(OPERATIONS, key=turn):
        examples = {each["name"]: (each["in"], each["example"]) for each in operation.get("parameters", ())}
        if schedule and "schedule_id" in examples:
            examples["schedule_id"] = ("path", schedule)  # the server made it
        if proposal and "proposal_id" in examples:
            examples["proposal_id"] = ("path", proposal)
        address, query, headers = path, {}, {}
        for name, (where, value) in examples.items():
            if where == "path":
                address = address.replace(f"{{{name}}}", str(value))
            elif where == "query":
                query[name] = value
            else:
                headers[name] = value
        body = b""
        for media_type, shown in operation.get("requestBody", {}).get("content", {}).items():
            headers["Content-Type"] = media_type
            body = msgspec.json.encode(shown["example"])
            if media_type == "application/msgpack":
                body = encode_batch(msgspec.convert(shown["example"], TelemetryBatch))
        answer = await api.request(method, f"http://test{address}", params=query, headers=headers, content=body)
        assert answer.status_code < 300, (method, path, answer.text)
        told = operation["responses"][str(answer.status_code)]
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        assert media_type in told.get("content", {"": None})
        if media_type == "application/json":
            schema = {**told["content"][media_type]["schema"], "components": DOCUMENT["components"]}
            jsonschema_rs.Draft202012Validator(schema).validate(answer.json())
        if path.endswith("/schedules") and method == "post":
            schedule = answer.json()["id"]
        if path.endswith("/proposals") and method == "post":
            proposal = answer.json()["id"]
    assert schedule
    assert proposal


def test_the_examples_are_the_same_run_throughout() -> None:
    run_ids = {
        parameter["example"]
        for _, _, operation in OPERATIONS
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "run_id"
    }
    assert run_ids == {"gpt-small-1f2e3d4c"}
