"""TODO from steadynorm_server.api.problem_details: ProblemError, RunNotFound, invalid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from steadynorm_contract.settings import FieldError

__all__ = ["ProblemError", "RunNotFound", "invalid"]


class ProblemError(Exception):
    """An answer that is an error. `detail` says what to do."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str | None = None,
        kind: str = "about:blank",
        errors: Sequence[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.title = title or HTTPStatus(status).phrase
        self.kind = kind
        self.errors = list(errors) if errors else None
        self.headers = dict(headers or {})


class RunNotFound(ProblemError):
    """404: the store has no such run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(404, f"no run {run_id!r} is known here. GET /api/v1/runs lists them.", title="Run not found")


def invalid(field: str, rule: str, message: str) -> ProblemError:
    """422 about one field."""
    return ProblemError(422, message, title="Invalid value", errors=[FieldError(field, rule, message)])
