"""HTTP: routes, request bodies, problem details, authorization, OpenAPI. No decisions, no Redis commands."""
