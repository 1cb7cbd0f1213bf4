"""Which errors each route can answer with, for /openapi.json. A test provokes every one of them."""

from __future__ import annotations

from steadynorm_contract.problems import Problem
from steadynorm_contract.settings import FieldError
from steadynorm_server.api.openapi.examples import RUN_ID

__all__ = ["ERRORS", "PROBLEMS", "error_responses"]

_ABOUT = f"/api/v1/runs/{RUN_ID}/settings"

PROBLEMS: dict[int, tuple[str, Problem]] = {
    400: (
        "The body, or a header, is not what it has to be",
        Problem(title="Malformed message", status=400, detail="not valid JSON: JSON is malformed: invalid character."),
    ),
    401: (
        "No token, or an unknown one",
        Problem(title="Unauthorized", status=401, detail="a token is needed: send `Authorization: Bearer TOKEN`."),
    ),
    403: (
        "The token's role, or the runs that it is bound to, do not allow this",
        Problem(title="Forbidden", status=403, detail="this needs the role operator: token 'viewer' has viewer."),
    ),
    404: (
        "No such run",
        Problem(title="Run not found", status=404, detail="no run 'x' is known here. GET /api/v1/runs lists them."),
    ),
    408: (
        "The body did not arrive in time",
        Problem(title="Request Timeout", status=408, detail="the body did not arrive within 30 s. Send it again."),
    ),
    409: (
        "The run is not in a state to take this",
        Problem(
            title="Run has ended",
            status=409,
            detail=f"run {RUN_ID} has ended (finished): nobody is there to apply a change.",
        ),
    ),
    412: (
        "Somebody was faster",
        Problem(
            title="Settings have changed",
            status=412,
            detail=f"run {RUN_ID} is at revision 2, this changes 1. Read the settings again and decide anew.",
        ),
    ),
    413: (
        "The body is too large",
        Problem(title="Content Too Large", status=413, detail="a body may have at most 65536 bytes."),
    ),
    415: (
        "The body is of another kind, or compressed",
        Problem(title="Unsupported Media Type", status=415, detail="this takes application/json: got text/plain."),
    ),
    422: (
        "A value breaks its rule: `errors` says which",
        Problem(
            title="Invalid settings",
            status=422,
            detail="gamma2 must be in [0, 1): got 1.5. For a longer memory use 0.9999.",
            instance=_ABOUT,
            errors=[
                FieldError(
                    "gamma2",
                    "must be in [0, 1)",
                    "gamma2 must be in [0, 1): got 1.5. For a longer memory use 0.9999.",
                )
            ],
            request_id="3f9a1c20b7d4e586",
        ),
    ),
    428: (
        "It is not said what this changes: the revision in If-Match, or the `revisions` of the preview",
        Problem(
            title="Precondition Required",
            status=428,
            detail='say which revision you change: send the one you read, as in `If-Match: "3"`.',
        ),
    ),
    429: (
        "Too many requests with this token: Retry-After says when to go on",
        Problem(title="Too Many Requests", status=429, detail="more than 5000 requests a second were made."),
    ),
    503: (
        "The store is away, full or busy: Retry-After says when to try again",
        Problem(title="Store unavailable", status=503, detail="the store does not answer (ConnectionError)."),
    ),
}
"""Per status what it means here, and an example."""

_READ = (401, 403, 404, 429, 503)
_ASKED = (*_READ, 422)
_SENT = (400, 401, 403, 408, 413, 415, 422, 429, 503)

_RUN = "/api/v1/runs/{run_id}"
ERRORS: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/api/v1/me"): (401, 429),
    ("GET", "/api/v1/runs"): (401, 403, 422, 429, 503),
    ("POST", "/api/v1/runs"): _SENT,
    ("GET", "/api/v1/fleet"): (401, 403, 422, 429, 503),
    ("GET", _RUN): _READ,
    ("DELETE", _RUN): _READ,
    ("GET", f"{_RUN}/series"): _ASKED,
    ("GET", f"{_RUN}/heatmap"): _ASKED,
    ("GET", f"{_RUN}/export"): _ASKED,
    ("GET", f"{_RUN}/parameters"): _ASKED,
    ("GET", f"{_RUN}/events"): _ASKED,
    ("GET", f"{_RUN}/audit"): _ASKED,
    ("POST", f"{_RUN}/telemetry"): (*_SENT, 404, 409),
    ("POST", f"{_RUN}/finish"): (*(status for status in _SENT if status != 422), 404, 409),
    ("GET", f"{_RUN}/settings"): _ASKED,
    ("PATCH", f"{_RUN}/settings"): (*_SENT, 404, 409, 412, 428),
    ("POST", "/api/v1/settings/bulk"): (*_SENT, 428),
    ("GET", f"{_RUN}/schedules"): _READ,
    ("POST", f"{_RUN}/schedules"): (*_SENT, 404, 409),
    ("DELETE", f"{_RUN}/schedules/{{schedule_id}}"): _READ,
    ("GET", f"{_RUN}/rules"): _READ,
    ("PUT", f"{_RUN}/rules"): (*_SENT, 404, 409, 412),
    ("GET", f"{_RUN}/retention"): _READ,
    ("PUT", f"{_RUN}/retention"): (*_SENT, 404, 412),
    ("GET", "/readyz"): (503,),
    ("GET", "/metrics"): (401, 403, 429, 503),
    ("GET", "/healthz"): (),
}
"""By method and path, all that the route itself can answer with. A new route stands here, or a test fails."""


def error_responses(method: str, path: str) -> tuple[int, ...]:
    """The errors of a route, in order."""
    return tuple(sorted(ERRORS.get((method, path), ())))
