"""Errors that a request can end with, below everything that raises them. api/problem_details.py renders them."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from steadynorm_contract.settings import FieldError


class StartError(Exception):
    """The server cannot start. The text says why and how to fix it."""


class ProblemError(Exception):
    """A request fails with `status`. `detail` says which rule was broken, by which value, and what to do."""

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
    """404: there is no such run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(404, f"run {run_id!r} does not exist. GET /api/v1/runs lists the runs.", title="Run not found")


class AutomationConflict(ProblemError):
    """412: schedules, rules or proposals of the run were written since it was read: read it again and try again."""

    def __init__(self, run_id: str) -> None:
        super().__init__(412, f"schedules, rules or proposals of {run_id} were changed concurrently. Read it again.")


def invalid(field: str, rule: str, message: str) -> ProblemError:
    """A 422 problem about one field."""
    return ProblemError(422, message, title="Invalid value", errors=[FieldError(field, rule, message)])
