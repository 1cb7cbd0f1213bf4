"""Puts the application together: routes, errors, middleware, metrics and Redis. Any number of processes may run it."""

import asyncio
import contextlib
import functools
import importlib.util
import time
from collections.abc import AsyncIterator, Callable

from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from steadynorm_contract import __version__
from steadynorm_server import audit_log
from steadynorm_server.api import problem_details
from steadynorm_server.api.direct_telemetry import DirectTelemetry
from steadynorm_server.api.openapi import docs_page, schema
from steadynorm_server.api.routes import (
    export,
    fleet,
    health,
    lifecycle,
    notes,
    proposals,
    retention,
    rules,
    runs,
    schedules,
    settings,
    telemetry,
)
from steadynorm_server.api.routes import tokens as tokens_route
from steadynorm_server.auth.proxy import TrustedProxy
from steadynorm_server.auth.rate_limit import RateLimiter
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.background import background
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.export.downloads import ExportLimits
from steadynorm_server.metrics.exposition import Observed
from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.metrics.run_metrics import gather
from steadynorm_server.metrics.scrapes import Scrapes
from steadynorm_server.middleware.request_log import RequestLog
from steadynorm_server.middleware.security_headers import SecurityHeaders
from steadynorm_server.retention.policy import Limits
from steadynorm_server.retention.sweeper import sweep_repeatedly
from steadynorm_server.runs.fleet import Fleet
from steadynorm_server.runs.queries import RunQueries
from steadynorm_server.runs.repository import QUIET_S, RunRepository
from steadynorm_server.telemetry.service import TelemetryService
from steadynorm_server.webhooks.config import read_webhooks
from steadynorm_server.webhooks.dispatcher import WebhookDispatcher


@functools.cache
def _routes() -> list[BaseRoute]:
    """The routes, which all applications of a process share: working out their parameters takes half a second."""
    router = APIRouter()
    seldom = (schedules, proposals, rules, retention, lifecycle, notes)
    for module in (telemetry, settings, tokens_route, runs, fleet, export, *seldom):  # the busiest first
        router.include_router(module.router)
    router.include_router(health.router)
    router.include_router(docs_page.router)
    return router.routes


class _Application(FastAPI):
    """Our middleware wraps the whole stack: add_middleware would put it inside the handler of unexpected errors."""

    def build_middleware_stack(self) -> ASGIApp:
        config: ServerConfig = self.state.config
        direct = DirectTelemetry(super().build_middleware_stack(), config.root_path, problem_details.respond)
        return RequestLog(SecurityHeaders(direct, tls=bool(config.tls or config.tls_cert)), self.state.metrics)


def _otlp(
    config: ServerConfig, repository: RunRepository, scrapes: Scrapes, metrics: ServerMetrics
) -> contextlib.AbstractAsyncContextManager[None]:
    if not config.otlp:
        return contextlib.nullcontext()
    from steadynorm_server.otlp.sender import OtlpSender  # only servers that send load its libraries

    async def read_metrics() -> bytes:
        return (await scrapes.answer(None))[0]

    return OtlpSender(repository, read_metrics, metrics.own).running()


def create_app(config: ServerConfig, redis_url: str, tokens: Tokens, clock: Callable[[], float] = time.time) -> FastAPI:
    """An application over the Redis at `redis_url`, connected for its lifespan. Raises WebhookError.

    `app.state.stopping` is an event: once it is set, every long-poll answers at once. While `app.state.draining` is
    true the server is not ready.
    """
    if config.otlp and importlib.util.find_spec("opentelemetry") is None:
        raise StartError("STEADYNORM_OTLP needs packages that are not installed: pip install 'steadynorm[otlp]'")
    webhooks = read_webhooks(config)
    limits = Limits.from_config(config)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.stopping = asyncio.Event()
        app.state.exports = ExportLimits()
        metrics: ServerMetrics = app.state.metrics
        app.state.repository = repository = RunRepository(
            redis_url,
            config.stalled_after_s,
            clock,
            metrics.redis_round_trip,
            metrics.waiting.inc,
            max(QUIET_S, config.forget_after_s),
        )
        app.state.telemetry = TelemetryService(repository, limits)
        app.state.queries = queries = RunQueries(repository)
        app.state.fleet = Fleet(repository)
        app.state.webhooks = dispatcher = WebhookDispatcher(repository, webhooks, config.dashboard_url, metrics.own)

        async def scraped() -> list[Observed]:
            await dispatcher.update_waiting_metric()
            return await gather(repository, queries, config.top_parameters, config.forget_after_s, config.top_scalars)

        app.state.scrapes = Scrapes(metrics, scraped)
        otlp = _otlp(config, repository, app.state.scrapes, metrics)
        sweeper = background("sweeper", lambda: sweep_repeatedly(repository, limits, metrics.store.set))
        async with repository.opened(), dispatcher.running(), sweeper, otlp:
            yield

    app = _Application(
        routes=_routes(),
        title="steadynorm",
        version=__version__,
        description="A training run's gradient norms: watch them, stabilize them, change how while it runs.",
        lifespan=lifespan,
        redirect_slashes=False,
        root_path=config.root_path,
        docs_url=None,  # docs_page.py, under a Content-Security-Policy
        redoc_url=None,
    )
    app.state.draining = False
    app.state.config, app.state.tokens, app.state.limits = config, tokens, limits
    app.state.metrics = metrics = ServerMetrics(config.dashboard_url)
    audit_log.count_unwritten(metrics.unwritten_audit_lines.inc)
    app.state.proxy = TrustedProxy.of(config, metrics.ignored_identities.inc)
    app.state.rate_limiter = RateLimiter(config.rate_per_run, config.rate_per_token)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(config.dashboard_url or f"{config.root_path}/docs")

    problem_details.install(app)
    schema.install(app)
    return app
