"""ASGI middleware: the request log, security headers, entity tags."""
