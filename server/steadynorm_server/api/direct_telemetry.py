"""POST /runs/{run_id}/telemetry without FastAPI: nearly all requests are of this one kind.

Finding the route, its dependencies and its arguments anew for each request took a third of what a batch cost. What
happens is that of the route in `routes/telemetry`, which describes it and is called here; so are its authorization and
its errors. Anything else goes on to `app`.
"""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from steadynorm_server.api import API
from steadynorm_server.api.authorization import requires
from steadynorm_server.api.routes.telemetry import TELEMETRY, ingest_telemetry
from steadynorm_server.auth.principals import Role

_END = "/telemetry"
_authorize = requires(Role.AGENT)


class _Route:
    """For the request log and the metrics, which name a request by its route."""

    def __init__(self, path: str) -> None:
        self.path = path


class DirectTelemetry:
    """on_error: makes the response to an error, and says whether it was foreseen."""

    def __init__(
        self,
        app: ASGIApp,
        root_path: str,
        on_error: Callable[[Request, Exception], Awaitable[tuple[Response, bool]]],
    ) -> None:
        self._app = app
        self._runs = tuple(dict.fromkeys((f"{API}/runs/", f"{root_path}{API}/runs/")))
        self._route = _Route(API + TELEMETRY)
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or (run_id := self._run_id(scope["path"])) is None:
            await self._app(scope, receive, send)
            return
        scope["route"], scope["path_params"] = self._route, {"run_id": run_id}
        request, state = Request(scope, receive), scope["app"].state
        try:
            sender = await _authorize(request)
            response = await ingest_telemetry(run_id, request, sender, state.telemetry, state.metrics)
        except Exception as error:
            response, foreseen = await self._on_error(request, error)
            await response(scope, receive, send)
            if not foreseen:
                raise  # to the log
            return
        await response(scope, receive, send)

    def _run_id(self, path: str) -> str | None:
        if not path.endswith(_END):
            return None
        for start in self._runs:
            if path.startswith(start):
                run_id = path[len(start) : -len(_END)]
                return run_id if run_id and "/" not in run_id else None
        return None
