"""/openapi.json, from the contract's own structs."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from steadynorm_contract.audit import AuditList
from steadynorm_contract.bulk import Bulk, BulkResponse
from steadynorm_contract.changes import Change
from steadynorm_contract.events import EventList
from steadynorm_contract.fleet import FleetResponse
from steadynorm_contract.problems import Problem
from steadynorm_contract.retention import Retention, RetentionUpdate
from steadynorm_contract.runs import RunDetail, RunList
from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_contract.series import Heatmap, ParameterList, SeriesResponse
from steadynorm_contract.telemetry import (
    Desired,
    Registered,
    RunFinish,
    RunRegistration,
    TelemetryAck,
    TelemetryBatch,
)
from steadynorm_contract.tokens import TokenInfo
from steadynorm_contract.watch_rules import RuleList, RuleSet
from steadynorm_server.api.openapi.examples import BODIES, PARAMETERS, PLAIN
from steadynorm_server.api.openapi.responses import PROBLEMS, error_responses

__all__ = ["answers_file", "body", "install", "responses"]

_STRUCTS = (
    *(RunRegistration, Registered, TelemetryBatch, TelemetryAck, RunFinish, Desired, Change),
    *(
        RunList,
        FleetResponse,
        RunDetail,
        SeriesResponse,
        Heatmap,
        ParameterList,
        EventList,
        AuditList,
        TokenInfo,
        Problem,
    ),
    *(Bulk, BulkResponse, NewSchedule, Schedule, ScheduleList, RuleSet, RuleList, RetentionUpdate, Retention),
)
_TEMPLATE = "#/components/schemas/{name}"


def _anything(kind: type) -> dict[str, Any]:
    """A setting's value in a change may be of any JSON type: its own rule says which is good."""
    if kind is object:
        return {"description": "Any JSON value"}
    raise NotImplementedError(kind)


def _content(kind: type, media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _TEMPLATE.format(name=kind.__name__)}}}


def responses(kind: type | None, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with `kind`, or else with one of the Problems of `statuses`."""
    good: dict[str, Any] = {"description": "Success"}
    if kind is not None:
        good["content"] = _content(kind, "application/json")
    return dict.fromkeys(statuses or (200,), good)


def answers_file(media_type: str) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with a file, or else with a Problem."""
    return {
        200: {"description": "The file", "content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    }


def body(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    """`openapi_extra` of a route that takes a `kind`."""
    return {"requestBody": {"required": True, "content": _content(kind, media_type)}}


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add what FastAPI does not know of a route: its errors, its token, and examples of all that it takes and gives."""
    responses = operation["responses"]
    responses.pop("422", None)  # the framework's own kind
    for status in error_responses(method, path):
        said, problem = PROBLEMS[status]
        content = _content(Problem, "application/problem+json")
        content["application/problem+json"]["example"] = msgspec.to_builtins(problem)
        responses[str(status)] = {"description": said, "content": content}
    if path.startswith("/api/"):
        operation["security"] = [{"token": []}]
        if method == "GET":
            responses["304"] = {
                "description": "If-None-Match names the ETag of what this would be: you have it already"
            }
    good = [answer for code, answer in responses.items() if code.startswith("2")]
    for media in [*good, operation.get("requestBody", {})]:
        for media_type, shown in media.get("content", {}).items():
            name = shown["schema"].get("$ref", "").rpartition("/")[2]
            example = BODIES.get(name, PLAIN.get(path, {}).get(media_type))
            if example is not None:
                shown["example"] = example
    # The last part of the path that is no parameter itself: /series of /runs/{run_id}/series.
    last = [part for part in path.split("/") if "{" not in part][-1]
    for parameter in operation.get("parameters", ()):
        example = PARAMETERS.get(parameter["name"])
        if isinstance(example, dict):
            example = example.get(last, example.get(""))
        if example is not None:
            parameter["example"] = example


def install(app: FastAPI) -> None:
    """Make `app.openapi()` hold the contract's schemas and the bearer token."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, structs = msgspec.json.schema_components(_STRUCTS, schema_hook=_anything, ref_template=_TEMPLATE)
            components = document.setdefault("components", {})
            framework = components.setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own errors are problems here
                framework.pop(name, None)
            framework.update(structs)
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, item in document["paths"].items():
                for method, operation in item.items():
                    _complete(path, method.upper(), operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents
