"""Every error as RFC 9457 problem JSON: what is wrong, with which value, and what to do.

Services and routes raise ProblemError; `install` turns it, the contract's errors, Redis' and the framework's into
responses. No request of a client may end as a 500.

A problem's `type` is about:blank, which says no more than its status, unless a program has to distinguish it from
others of that status: UNSUPPORTED_VERSION. A type never changes; titles and details are for people, and may.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError, ResponseError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from steadynorm_contract import __version__
from steadynorm_contract.codec import MalformedMessage, UnsupportedVersion, encode_json
from steadynorm_contract.problems import UNSUPPORTED_VERSION, Problem
from steadynorm_contract.settings import FieldError, SettingsError
from steadynorm_contract.versions import versions_differ
from steadynorm_server.errors import ProblemError
from steadynorm_server.middleware.request_log import request_id
from steadynorm_server.redis_errors import is_refused_for_now, misconfigured

RETRY_AFTER_S = 2
_log = logging.getLogger(__name__)
_AGENT = re.compile(r"steadynorm-agent/([0-9A-Za-z.+-]{1,40})")


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
    if (reason := misconfigured(error)) is not None:
        return _unavailable(f"{reason} Read again before you repeat a change.")
    if isinstance(error, ResponseError) and not is_refused_for_now(error):
        _log.error("Redis refused what this server asked for", exc_info=error)
        return _unexpected()
    reason = "refuses this now" if isinstance(error, ResponseError) else "does not answer"
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


def _unexpected() -> ProblemError:
    return ProblemError(500, "internal server error; the server's log has the traceback. Please report it.")


_PROBLEMS: dict[type[Exception], Callable[[Any], ProblemError]] = {
    ProblemError: lambda error: error,
    SettingsError: lambda error: ProblemError(422, str(error), title="Invalid settings", errors=error.errors),
    UnsupportedVersion: lambda error: ProblemError(
        400, str(error), title="Unsupported schema version", kind=UNSUPPORTED_VERSION
    ),
    MalformedMessage: lambda error: ProblemError(400, str(error), title="Malformed message"),
    RequestValidationError: _from_validation,
    HTTPException: _from_framework,
    RedisError: _from_redis,
    ClientDisconnect: lambda _: ProblemError(400, "the connection was closed before the body was complete."),
    Exception: lambda _: _unexpected(),
}
"""How each error of a request is rendered; of several that fit, the most specific one."""


def _methods(app: FastAPI, path: str) -> list[str]:
    """All methods that a path takes."""
    return sorted(
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if re.fullmatch(re.sub(r"\\\{[^}]*\}", "[^/]+", re.escape(template)), path)
        for method in operations
    )


async def respond(request: Request, error: Exception) -> tuple[Response, bool]:
    """The response to an error of a request, and whether it was foreseen: another one is a defect of ours."""
    app: FastAPI = request.app
    kind = next(each for each in type(error).__mro__ if each in _PROBLEMS)
    problem = _PROBLEMS[kind](error)
    if isinstance(error, MalformedMessage | SettingsError):
        agent = _AGENT.fullmatch(request.headers.get("user-agent", ""))
        if advice := versions_differ(agent[1] if agent else "", __version__):
            problem.detail = f"{problem.detail.rstrip('.')}. {advice}"
    if problem.status == 405 and (methods := _methods(app, request.url.path.removeprefix(app.root_path))):
        problem.headers = {**problem.headers, "Allow": ", ".join(methods)}  # the framework names one route's only
    return _response(request, problem), kind is not Exception


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        return (await respond(request, error))[0]

    for kind in _PROBLEMS:
        app.add_exception_handler(kind, handle)
