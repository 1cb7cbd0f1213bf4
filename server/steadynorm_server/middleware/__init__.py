"""ASGI middleware around the whole application: the request log and security headers. Knows nothing of routes."""
