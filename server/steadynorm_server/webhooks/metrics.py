"""What /metrics tells of webhooks: deliveries by outcome, and how long something has been waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["Outcome", "WebhookMetrics"]

Outcome = Literal["delivered", "retried", "dead"]


class WebhookMetrics:
    """Series by webhook; all are there from the start, so that a rate sees the first failure too."""

    def __init__(self, registry: CollectorRegistry, names: list[str]) -> None:
        self._deliveries = Counter(
            "steadynorm_webhook_deliveries",
            "Messages sent by this process: delivered, to be sent again, or given up (dead).",
            ("webhook", "outcome"),
            registry=registry,
        )
        self._dropped = Counter(
            "steadynorm_webhook_events_dropped",
            "Events that a full queue counts and shows none of; the runs' own lists have them.",
            registry=registry,
        )
        self._oldest = Gauge(
            "steadynorm_webhook_oldest_undelivered_seconds",
            "For how long the oldest undelivered event has been waiting; 0: all is delivered.",
            ("webhook",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        outcomes: tuple[Outcome, ...] = ("delivered", "retried", "dead")
        for name in names:
            self._oldest.labels(name).set(0)
            for outcome in outcomes:
                self._deliveries.labels(name, outcome)

    def sent(self, webhook: str, outcome: Outcome) -> None:
        """Count a message that was sent."""
        self._deliveries.labels(webhook, outcome).inc()

    def dropped(self, events: int) -> None:
        """Count events that a message will only count."""
        self._dropped.inc(events)

    def waiting(self, ages_s: Mapping[str, float]) -> None:
        """Note how long each webhook's oldest event has been waiting."""
        for webhook, age_s in ages_s.items():
            self._oldest.labels(webhook).set(age_s)
