"""The application that Streamlit's server runs: the pages of `app.py`, plotly's library, and downloads."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.responses import FileResponse
from starlette.routing import Route

from steadynorm_dashboard import owner_link
from steadynorm_dashboard.components.changed_elements import ChangedElements
from steadynorm_dashboard.components.plotly_bundle import ADDRESS, FILE
from steadynorm_dashboard.components.preloads import Preloads
from steadynorm_dashboard.components.proxy_identity import ProxyIdentity
from steadynorm_dashboard.components.quiet_timers import QuietTimers
from steadynorm_dashboard.components.security_headers import SecurityHeaders
from steadynorm_dashboard.components.single_clicks import SingleClicks
from steadynorm_dashboard.components.static_files import StaticFileCache
from steadynorm_dashboard.data import downloads, owner

_base_path = str(st.get_option("server.baseUrlPath") or "").strip("/")
_BASE = f"/{_base_path}" if _base_path else ""
"""The path under which a proxy offers the dashboard."""
_IMMUTABLE = {"Cache-Control": "public, immutable, max-age=31536000"}


async def library(_request: object) -> FileResponse:
    """Plotly's library; its address changes with its content."""
    return FileResponse(FILE, media_type="text/javascript", headers=_IMMUTABLE)


app = st.App(  # Streamlit looks for this name
    Path(__file__).with_name("app.py"),
    routes=[
        Route(f"{_BASE}/{ADDRESS}", library),
        Route(_BASE + downloads.PATH, downloads.download),
        Route(_BASE + owner_link.PATH, owner.redeem),
    ],
    middleware=[
        Middleware(ProxyIdentity),
        Middleware(SecurityHeaders),
        Middleware(Preloads, scripts=[ADDRESS], modules="/static/js/", base=_BASE),
        Middleware(StaticFileCache),
        Middleware(SingleClicks),
        Middleware(ChangedElements),
        Middleware(QuietTimers),  # within: it times a refresh by the message that ends it, which may not be sent
    ],
)
