"""What Streamlit's server runs: the pages of `app.py`, plotly's library, downloads, and files that are kept packed."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.responses import FileResponse
from starlette.routing import Route

from steadynorm_dashboard.components.plotly_bundle import ADDRESS, FILE
from steadynorm_dashboard.components.static_files import KeptFiles
from steadynorm_dashboard.data import downloads

_FOREVER = {"Cache-Control": "public, immutable, max-age=31536000"}


async def library(_request: object) -> FileResponse:
    """Plotly's library. Its address changes with its content."""
    return FileResponse(FILE, media_type="text/javascript", headers=_FOREVER)


app = st.App(  # by this name Streamlit finds it
    Path(__file__).with_name("app.py"),
    routes=[Route(f"/{ADDRESS}", library), Route(downloads.PATH, downloads.redeem)],
    middleware=[Middleware(KeptFiles)],
)
