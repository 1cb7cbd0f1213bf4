"""/openapi.json, from the contract's own structs."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from steadynorm_contract.bulk import Bulk, BulkAnswer
from steadynorm_contract.fleet import FleetAnswer
from steadynorm_contract.heatmap import Heatmap
from steadynorm_contract.records import (
    Desired,
    Registered,
    RunFinish,
    RunRegistration,
    TelemetryAnswer,
    TelemetryBatch,
)
from steadynorm_contract.schedules import NewSchedule, Schedule, ScheduleList
from steadynorm_contract.views import (
    AuditList,
    Change,
    EventList,
    Me,
    ParameterList,
    Problem,
    RunDetail,
    RunList,
    SeriesAnswer,
)
from steadynorm_contract.watch_rules import RuleList, RuleSet

__all__ = ["answers", "answers_file", "body", "install"]

_STRUCTS = (
    *(RunRegistration, Registered, TelemetryBatch, TelemetryAnswer, RunFinish, Desired, Change),
    *(RunList, FleetAnswer, RunDetail, SeriesAnswer, Heatmap, ParameterList, EventList, AuditList, Me, Problem),
    *(Bulk, BulkAnswer, NewSchedule, Schedule, ScheduleList, RuleSet, RuleList),
)
_TEMPLATE = "#/components/schemas/{name}"


def _anything(kind: type) -> dict[str, Any]:
    """A setting's value in a change may be of any JSON type: its own rule says which is good."""
    if kind is object:
        return {"description": "Any JSON value"}
    raise NotImplementedError(kind)


def _content(kind: type, media_type: str) -> dict[str, Any]:
    return {media_type: {"schema": {"$ref": _TEMPLATE.format(name=kind.__name__)}}}


def answers(kind: type | None, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with `kind`, or else with a Problem."""
    good: dict[str, Any] = {"description": "Success"}
    if kind is not None:
        good["content"] = _content(kind, "application/json")
    problem = {"description": "Problem", "content": _content(Problem, "application/problem+json")}
    return {**dict.fromkeys(statuses or (200,), good), "4XX": problem, "503": problem}


def answers_file(media_type: str) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with a file, with 304 to who has it, or else with a Problem."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    good: dict[int | str, dict[str, Any]] = {
        200: {"description": "The file", "content": content},
        304: {"description": "You have it already"},
    }
    return {**answers(None), **good}


def body(kind: type, media_type: str = "application/json") -> dict[str, Any]:
    """`openapi_extra` of a route that takes a `kind`."""
    return {"requestBody": {"required": True, "content": _content(kind, media_type)}}


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
                for operation in item.values():
                    operation["responses"].pop("422", None)
                    if path.startswith("/api/"):
                        operation["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents
