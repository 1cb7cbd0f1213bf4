"""The server: FastAPI over Redis, and Prometheus metrics. Keeps no state of its own. Never torch, never the CLI."""
