"""Prometheus metrics: of the runs, and of the server itself. Reads Redis, writes nothing."""
