"""Puts the application together: routes, errors, middleware, metrics and Redis. Any number of processes may run it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp

from steadynorm_contract import __version__
from steadynorm_server.api import problem_details
from steadynorm_server.api.openapi import docs_page, schema
from steadynorm_server.api.routes import (
    export,
    fleet,
    health,
    retention,
    rules,
    runs,
    schedules,
    settings,
    telemetry,
)
from steadynorm_server.api.routes import tokens as tokens_route
from steadynorm_server.auth.rate_limit import RateLimiter
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.background import background
from steadynorm_server.config import ServerConfig
from steadynorm_server.export.downloads import ExportLimits
from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.middleware.request_log import RequestLog
from steadynorm_server.middleware.security_headers import SecurityHeaders
from steadynorm_server.retention.policy import Limits
from steadynorm_server.retention.sweeper import sweep_repeatedly
from steadynorm_server.runs.fleet import Fleet
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.telemetry.service import TelemetryService
from steadynorm_server.webhooks.config import read_webhooks
from steadynorm_server.webhooks.dispatcher import WebhookDispatcher

API = "/api/v1"


class _Application(FastAPI):
    """Our middleware wraps the whole stack: add_middleware would put it inside the handler of unexpected errors."""

    def build_middleware_stack(self) -> ASGIApp:
        config: ServerConfig = self.state.config
        stack = SecurityHeaders(super().build_middleware_stack(), tls=bool(config.tls or config.tls_cert))
        return RequestLog(stack, self.state.metrics)


def create_app(config: ServerConfig, redis_url: str, tokens: Tokens, clock: Callable[[], float] = time.time) -> FastAPI:
    """An application over the Redis at `redis_url`, connected for its lifespan. Raises WebhookError.

    `app.state.stopping` is an event: once it is set, every long-poll answers at once.
    """
    webhooks = read_webhooks(config)
    limits = Limits.from_config(config)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.stopping = asyncio.Event()
        app.state.exports = ExportLimits()
        metrics: ServerMetrics = app.state.metrics
        app.state.repository = repository = RunRepository(
            redis_url, config.stalled_after_s, clock, metrics.redis_round_trip, metrics.waiting.inc
        )
        app.state.telemetry = TelemetryService(repository, limits)
        app.state.fleet = Fleet(repository)
        app.state.webhooks = dispatcher = WebhookDispatcher(repository, webhooks, config.dashboard_url, metrics.own)
        sweeper = background("sweeper", lambda: sweep_repeatedly(repository, limits))
        async with repository.opened(), dispatcher.running(), sweeper:
            yield

    app = _Application(
        title="steadynorm",
        version=__version__,
        description="A training run's gradient norms: watch them, stabilize them, change how while it runs.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # docs_page.py, under a Content-Security-Policy
        redoc_url=None,
    )
    app.state.config, app.state.tokens, app.state.limits = config, tokens, limits
    app.state.metrics = ServerMetrics(config.dashboard_url)
    app.state.rate_limiter = RateLimiter(config.rate_per_run, config.rate_per_token)
    busiest_first = (telemetry, settings, tokens_route, runs, fleet, export, schedules, rules, retention)
    for module in busiest_first:
        app.include_router(module.router, prefix=API)
    app.include_router(health.router)
    app.include_router(docs_page.router)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(config.dashboard_url or "/docs")

    problem_details.install(app)
    schema.install(app)
    return app
