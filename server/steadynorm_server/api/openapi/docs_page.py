"""/docs: Swagger UI over /openapi.json, with a Content-Security-Policy of its own."""

import base64
import hashlib

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

_CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5"
_SCRIPT = (
    "SwaggerUIBundle({url: 'openapi.json', dom_id: '#swagger-ui', deepLinking: true, layout: 'BaseLayout', "
    "presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset]})"
)
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>steadynorm HTTP API</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="{_CDN}/swagger-ui.css"></head>
<body><div id="swagger-ui"></div><script src="{_CDN}/swagger-ui-bundle.js"></script><script>{_SCRIPT}</script></body>
</html>"""
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_CSP = (
    f"default-src 'none'; script-src {_CDN}/ 'sha256-{_SCRIPT_HASH}'; style-src {_CDN}/ 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
)

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """The interactive API reference."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _CSP})
