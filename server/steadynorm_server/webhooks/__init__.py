"""Delivery of events to webhooks: configuration, queue, payload, sender, metrics."""
