"""Metrics of webhooks: deliveries by outcome, and how long the oldest event has been waiting."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class WebhookMetrics:
    """Series by webhook; all exist from the start, so that a rate includes the first failure."""

    def __init__(self, registry: CollectorRegistry, names: list[str]) -> None:
        if not names:
            return
        self.deliveries = Counter(
            "steadynorm_webhook_deliveries",
            "Messages sent by this process: delivered, to be sent again, or given up (dead).",
            ("webhook", "outcome"),
            registry=registry,
        )
        self.dropped = Counter(
            "steadynorm_webhook_events_dropped",
            "Events that messages count but do not show because the queue was full; the runs' own lists have them.",
            registry=registry,
        )
        self.lines_dropped = Gauge(
            "steadynorm_webhook_audit_lines_dropped",
            "Lines of the audit stream that webhooks lack, since too many waited; STEADYNORM_AUDIT_LOG has them.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.oldest = Gauge(
            "steadynorm_webhook_oldest_undelivered_seconds",
            "Age of the oldest undelivered event; 0: all are delivered.",
            ("webhook",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        for name in names:
            self.oldest.labels(name).set(0)
            for outcome in ("delivered", "retried", "dead"):
                self.deliveries.labels(name, outcome)
