"""The application: routes, errors, metrics and the store, put together. Any number of processes may run it alike."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from steadynorm_contract import __version__
from steadynorm_server.api import problem_details
from steadynorm_server.api.openapi import schema
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
from steadynorm_server.export.downloads import Exports
from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.middleware import request_log, security_headers
from steadynorm_server.middleware.etag import ETagMiddleware
from steadynorm_server.retention import trimming
from steadynorm_server.retention.policy import Limits, forget_old
from steadynorm_server.runs.fleet import Fleet
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.webhooks.config import read_webhooks
from steadynorm_server.webhooks.dispatcher import WebhookDispatcher

__all__ = ["create_app"]

API = "/api/v1"


def create_app(
    settings_: ServerConfig, store_url: str, tokens: Tokens, clock: Callable[[], float] = time.time
) -> FastAPI:
    """An application over the store at `store_url`. Its lifespan opens and closes the store. Raises WebhookError.

    `app.state.stopping` is an event: set it and every long-poll answers at once.
    """
    webhooks = read_webhooks(settings_)
    limits = Limits.of(settings_)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.stopping = asyncio.Event()
        app.state.exports = Exports()
        meters: ServerMetrics = app.state.meters
        app.state.repository = repository = RunRepository(
            store_url, settings_.stalled_after_s, clock, meters.store_round_trip, meters.waiting.inc
        )
        app.state.fleet = Fleet(repository)
        app.state.webhooks = dispatcher = WebhookDispatcher(repository, webhooks, settings_.dashboard_url, meters.own)
        repository.budgets = limits.budgets
        sweeper = background("sweeper", lambda: _sweep(repository, limits))
        async with repository.opened(), dispatcher.running(), sweeper:
            yield

    app = FastAPI(
        title="steadynorm",
        version=__version__,
        description="A training run's gradient norms: watch them, stabilize them, change how while it runs.",
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,  # it wants scripts and fonts from several places; /docs says the same
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.settings, app.state.tokens, app.state.limits = settings_, tokens, limits
    app.state.meters = ServerMetrics(settings_.dashboard_url)
    app.state.rates = RateLimiter(settings_.rate_per_run, settings_.rate_per_token)
    busiest_first = (telemetry, settings, tokens_route, runs, fleet, export, schedules, rules, retention)
    for module in busiest_first:
        app.include_router(module.router, prefix=API)
    app.include_router(health.router)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(settings_.dashboard_url or "/docs")

    problem_details.install(app)
    schema.install(app)
    app.add_middleware(ETagMiddleware)
    security_headers.install(app, tls=bool(settings_.tls or settings_.tls_cert))
    request_log.install(app, app.state.meters)
    return app


async def _sweep(repository: RunRepository, limits: Limits) -> None:
    """Rebuilds the index once, then notes silence even when nobody looks, removes old runs and trims large ones."""
    await repository.rebuild_index()
    while True:
        runs = await repository.all()
        await repository.mark_stalled(runs)
        await forget_old(repository, runs, limits)
        await trimming.enforce_size_limit(repository, runs, limits)
        await asyncio.sleep(min(10.0, repository.stalled_after_s / 2))
