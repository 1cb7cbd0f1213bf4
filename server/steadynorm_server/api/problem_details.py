"""Every error as RFC 9457 problem JSON: what is wrong, with which value, and what to do.

Services and routes raise ProblemError; `install` turns it, the contract's errors, Redis' and the framework's into
responses. No request of a client may end as a 500.

A problem's `type` is about:blank, which says no more than its status, unless a program has to distinguish it from
others of that status: UNSUPPORTED_VERSION. A type never changes; titles and details are for people, and may.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from redis.exceptions import MovedError, RedisError, ResponseError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from steadynorm_contract.codec import MalformedMessage, UnsupportedVersion, encode_json
from steadynorm_contract.problems import UNSUPPORTED_VERSION, Problem
from steadynorm_contract.settings import FieldError, SettingsError
from steadynorm_server.errors import ProblemError
from steadynorm_server.middleware.request_log import request_id
from steadynorm_server.redis.client import is_write_refused

RETRY_AFTER_S = 2


def _response(request: Request, problem: ProblemError) -> Response:
    body = Problem(
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        type=problem.kind,
        instance=request.url.path,
        errors=problem.errors,
        request_id=request_id(request.scope),
    )
    return Response(encode_json(body), problem.status, problem.headers, media_type="application/problem+json")


def _unavailable(detail: str) -> ProblemError:
    return ProblemError(503, detail, title="Redis unavailable", headers={"Retry-After": str(RETRY_AFTER_S)})


def _from_redis(error: RedisError) -> ProblemError:
    if isinstance(error, MovedError):
        return _unavailable(
            "Redis runs as a cluster, which REDIS_URL does not say: set it to redis+cluster://HOST:PORT."
        )
    if isinstance(error, ResponseError) and not is_write_refused(error):
        return _unexpected()
    reason = "refuses writes now" if isinstance(error, ResponseError) else "does not answer"
    return _unavailable(
        f"Redis {reason} ({type(error).__name__}). Read again before you repeat a change: one that was not "
        "acknowledged may still be made when Redis is back. A telemetry batch can be repeated: it is stored once."
    )


def _from_framework(error: HTTPException) -> ProblemError:
    detail = {
        404: "there is nothing at this address. The API is under /api/v1; /docs lists its routes.",
        405: "this address does not take that method. /docs lists the routes and their methods.",
    }.get(error.status_code, str(error.detail))
    return ProblemError(error.status_code, detail, headers=error.headers)


def _from_validation(error: RequestValidationError) -> ProblemError:
    # The rejected value is not echoed: it may be NaN, or anything else that JSON cannot carry.
    errors = [
        FieldError(name, str(found["type"]), f"{name}: {found['msg']}.")
        for found in error.errors()
        for name in [".".join(str(part) for part in found["loc"][1:]) or str(found["loc"][0])]
    ]
    return ProblemError(422, " ".join(each.message for each in errors), title="Invalid parameter", errors=errors)


def _to_problem(error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case SettingsError():
            return ProblemError(422, str(error), title="Invalid settings", errors=error.errors)
        case UnsupportedVersion():
            return ProblemError(400, str(error), title="Unsupported schema version", kind=UNSUPPORTED_VERSION)
        case MalformedMessage():
            return ProblemError(400, str(error), title="Malformed message")
        case RequestValidationError():
            return _from_validation(error)
        case HTTPException():
            return _from_framework(error)
        case RedisError():
            return _from_redis(error)
        case ClientDisconnect():
            return ProblemError(400, "the connection was closed before the body was complete.")
        case _:
            return _unexpected()


def _unexpected() -> ProblemError:
    return ProblemError(500, "internal server error; the server's log has the traceback. Please report it.")


def _methods(app: FastAPI, path: str) -> list[str]:
    """All methods that a path takes."""
    return sorted(
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\\\{[^}]*\}", "[^/]+", re.escape(template)), path)
        for method in operations
    )


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = _to_problem(error)
        if problem.status == 405 and (methods := _methods(app, request.url.path)):
            problem.headers = {**problem.headers, "Allow": ", ".join(methods)}  # the framework names one route's only
        return _response(request, problem)

    handler: Callable[[Request, Exception], Awaitable[Response]] = handle
    for kind in (
        ProblemError,
        SettingsError,
        MalformedMessage,
        RequestValidationError,
        HTTPException,
        RedisError,
        ClientDisconnect,
        Exception,
    ):
        app.add_exception_handler(kind, handler)
