"""Metrics and events to a collector, by OTLP over HTTP. Reads what `/metrics` shows and what runs' event lists hold."""
