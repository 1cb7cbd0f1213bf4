"""The application that Streamlit's server runs: the pages of `app.py`, plotly's library, and downloads."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.responses import FileResponse
from starlette.routing import Route

from steadynorm_dashboard.components.plotly_bundle import ADDRESS, FILE
from steadynorm_dashboard.components.static_files import StaticFileCache
from steadynorm_dashboard.data import downloads

_IMMUTABLE = {"Cache-Control": "public, immutable, max-age=31536000"}


async def library(_request: object) -> FileResponse:
    """Plotly's library; its address changes with its content."""
    return FileResponse(FILE, media_type="text/javascript", headers=_IMMUTABLE)


app = st.App(  # Streamlit looks for this name
    Path(__file__).with_name("app.py"),
    routes=[Route(f"/{ADDRESS}", library), Route(downloads.PATH, downloads.download)],
    middleware=[Middleware(StaticFileCache)],
)
