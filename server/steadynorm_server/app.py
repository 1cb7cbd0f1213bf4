"""The application: routes, errors, metrics and the store, put together. Any number of processes may run it alike."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from steadynorm_contract import __version__
from steadynorm_server import headers, problems, request_log, schema
from steadynorm_server.auth import Tokens
from steadynorm_server.background import background
from steadynorm_server.conditional import Conditional
from steadynorm_server.config import ServerSettings
from steadynorm_server.fleet import Fleet
from steadynorm_server.metrics import Meters
from steadynorm_server.rates import Rates
from steadynorm_server.retention import forget_old
from steadynorm_server.routes import bulk, fleet, health, heatmap, me, runs, settings, telemetry
from steadynorm_server.store import Store

__all__ = ["create_app"]

API = "/api/v1"


def create_app(
    settings_: ServerSettings, store_url: str, tokens: Tokens, clock: Callable[[], float] = time.time
) -> FastAPI:
    """An application over the store at `store_url`. Its lifespan opens and closes the store.

    `app.state.stopping` is an event: set it and every long-poll answers at once.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.stopping = asyncio.Event()
        app.state.store = store = Store(store_url, settings_.stalled_after_s, clock, app.state.meters.store_round_trip)
        app.state.fleet = Fleet(store)
        async with store.opened(), background("sweeper", lambda: _sweep(store, settings_.retention_days)):
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
    app.state.settings, app.state.tokens = settings_, tokens
    app.state.meters = Meters(settings_.dashboard_url)
    app.state.rates = Rates(settings_.rate_per_run, settings_.rate_per_token)
    for module in (me, runs, fleet, heatmap, telemetry, settings, bulk):
        app.include_router(module.router, prefix=API)
    app.include_router(health.router)

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse(settings_.dashboard_url or "/docs")

    problems.install(app)
    schema.install(app)
    app.add_middleware(Conditional)
    headers.install(app, tls=bool(settings_.tls or settings_.tls_cert))
    request_log.install(app, app.state.meters)
    return app


async def _sweep(store: Store, keep_days: float | None) -> None:
    """Rebuilds the index once, then notes runs that fell silent even when nobody looks, and removes old ones."""
    await store.rebuild_index()
    while True:
        runs = await store.all()
        await store.note_silence(runs)
        await forget_old(store, runs, keep_days)
        await asyncio.sleep(min(10.0, store.stalled_after_s / 2))
