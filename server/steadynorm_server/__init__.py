"""The server: FastAPI over Redis, Prometheus metrics, the command line. Keeps no state of its own."""
