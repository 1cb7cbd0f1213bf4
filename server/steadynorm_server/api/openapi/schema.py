"""/openapi.json from the contract's structs, examples.json, and the errors that each route declares."""

from http import HTTPStatus
from importlib import resources
from typing import Any

import msgspec
from fastapi import FastAPI

from steadynorm_contract.problems import Problem
from steadynorm_contract.settings import FieldError

ACCESS = (401, 403, 429, 503)
"""Errors of a route that requires a role and reads Redis."""
RUN = (*ACCESS, 404)
"""Errors of a route about one run."""
_BODY = (400, 408, 413, 415)
"""Errors of a route with a request body; 422 where its values have rules."""

_RULE = "gamma2 must be in [0, 1): got 1.5. For a longer memory use 0.9999."
_ERRORS: dict[int, tuple[str, str]] = {
    400: ("The body or a header is malformed", "not valid JSON: JSON is malformed: invalid character."),
    401: ("No token, or an unknown one", "a token is required: send `Authorization: Bearer TOKEN`."),
    403: (
        "The token's role, or the runs that it is bound to, do not allow this",
        "this requires the role operator: token 'viewer' has viewer.",
    ),
    404: ("There is no such run", "run 'x' does not exist. GET /api/v1/runs lists the runs."),
    408: ("The body did not arrive in time", "the body did not arrive within 30 s. Send it again."),
    409: ("The run's state does not allow this", "run gpt-small-1f2e3d4c has ended (finished)."),
    412: ("It was changed concurrently", "run gpt-small-1f2e3d4c is at revision 2, this changes 1."),
    413: ("The body is too large", "a body may have at most 65536 bytes."),
    415: (
        "The media type is another one, or the body is compressed",
        "Content-Type must be application/json: got text/plain.",
    ),
    422: ("A value breaks its rule: `errors` names field and rule", _RULE),
    428: (
        "The revision to change is missing: in If-Match, or the `revisions` of the preview",
        'If-Match with the revision is required, as in `If-Match: "3"`.',
    ),
    429: ("Too many requests with this token: wait for Retry-After seconds", "more than 5000 requests a second."),
    503: ("Redis is away, full or busy: try again after Retry-After seconds", "Redis does not answer."),
}
"""Per status what it means here, and an example."""

_TEMPLATE = "#/components/schemas/{name}"
_structs: dict[str, Any] = {}
"""The structs that routes declare, by name."""


def _content(kind: type, media_type: str) -> dict[str, Any]:
    _structs[kind.__name__] = kind
    return {media_type: {"schema": {"$ref": _TEMPLATE.format(name=kind.__name__)}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: a Problem with each of these statuses."""
    declared: dict[int | str, dict[str, Any]] = {}
    for status in sorted(statuses):
        description, detail = _ERRORS[status]
        fields = [FieldError("gamma2", "must be in [0, 1)", detail)] if status == 422 else None
        example = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=fields)
        content = _content(Problem, "application/problem+json")
        content["application/problem+json"]["example"] = msgspec.to_builtins(example)
        declared[status] = {"description": description, "content": content}
    return declared


def responses(kind: type | None, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route: `kind` with the statuses below 400 (200 where none is given), a Problem with the others.

    All errors that the route can end with are declared here; a test provokes each of them.
    """
    success: dict[str, Any] = {"description": "Success"}
    if kind is not None:
        success["content"] = _content(kind, "application/json")
    declared: dict[int | str, dict[str, Any]] = {code: success for code in statuses if code < 400} or {200: success}
    return declared | errors(*(code for code in statuses if code >= 400))


def file_response(media_type: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that sends a file."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return errors(*statuses) | {
        200: {"description": "The file", "content": content},
        304: {"description": "If-None-Match names the file's ETag: it has not changed"},
    }


def takes(body: type, kind: type | None, *statuses: int, media_type: str = "application/json") -> dict[str, Any]:
    """`responses` as above, and `openapi_extra`, of a route with a `body`, whose own errors are among them."""
    request = {"requestBody": {"required": True, "content": _content(body, media_type)}}
    return {"responses": responses(kind, *statuses, *_BODY), "openapi_extra": request}


def _any_json(kind: type) -> dict[str, Any]:
    """A setting's value in a change may be of any JSON type: the setting's own rule is checked later."""
    if kind is object:
        return {"description": "Any JSON value"}
    raise NotImplementedError(kind)


def _complete(path: str, operation: dict[str, Any], examples: dict[str, Any]) -> None:
    """Add what FastAPI does not know of a route: its token, and examples of all that it takes and returns."""
    if operation["responses"].get("422", {}).get("description") == "Validation Error":  # FastAPI's own
        del operation["responses"]["422"]
    if path.startswith("/api/"):
        operation["security"] = [{"token": []}]
    success = [answer for code, answer in operation["responses"].items() if code.startswith("2")]
    for media in [*success, operation.get("requestBody", {})]:
        for media_type, shown in media.get("content", {}).items():
            name = shown["schema"].get("$ref", "").rpartition("/")[2]
            if name in _structs:  # decoded and encoded: the file leaves defaults out
                value = msgspec.json.decode(msgspec.json.encode(examples["bodies"][name]), type=_structs[name])
                shown["example"] = msgspec.json.decode(msgspec.json.encode(value))
            elif (plain := examples["plain"].get(path, {}).get(media_type)) is not None:
                shown["example"] = plain
    # By name; where a parameter differs between routes, by the last fixed part of the path, else by "".
    last = [part for part in path.split("/") if "{" not in part][-1]
    for parameter in operation.get("parameters", ()):
        example = examples["parameters"].get(parameter["name"])
        if isinstance(example, dict):
            example = example.get(last, example.get(""))
        if example is not None:
            parameter["example"] = example


def install(app: FastAPI) -> None:
    """Make `app.openapi()` hold the contract's schemas, examples and the bearer token."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            kinds = list(_structs.values())
            _, structs = msgspec.json.schema_components(kinds, schema_hook=_any_json, ref_template=_TEMPLATE)
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own errors are problems here
                schemas.pop(name, None)
            schemas.update(structs)
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            examples = msgspec.json.decode(resources.files(__package__).joinpath("examples.json").read_bytes())
            for path, item in document["paths"].items():
                for operation in item.values():
                    _complete(path, operation, examples)
            if app.root_path:
                document["servers"] = [{"url": app.root_path}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI documents
