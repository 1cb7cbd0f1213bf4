"""HTTP: routes, request bodies, problem details, authorization, OpenAPI. No decisions, no Redis commands."""

API = "/api/v1"
"""Where all routes are but those for orchestrators, Prometheus and the documentation."""
