"""Many events as one message: for programs as JSON, for people as Slack's text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from steadynorm_contract.codec import encode_json
from steadynorm_contract.views import Event
from steadynorm_contract.webhooks import WebhookEvent, WebhookMessage
from steadynorm_server.webhook_file import Webhook

__all__ = ["body", "told"]

_OF_A_KIND = 3
"""Shown of one run and kind; a burst says no more by its hundredth spike."""
_EVENTS = 50
_LINES = 20
_LINE = 400


def told(run_id: str, run: str, event: Event, dashboard_url: str | None) -> WebhookEvent:
    """An event as receivers get it."""
    return WebhookEvent(
        run_id=run_id,
        run=run,
        id=event.id,
        kind=event.kind,
        step=event.step,
        time=event.time,
        message=event.message,
        parameter=event.parameter,
        value=event.value,
        batch_id=event.batch_id,
        url=f"{dashboard_url.rstrip('/')}/?run={quote(run_id)}" if dashboard_url else None,
    )


def body(webhook: Webhook, message_id: str, events: Sequence[WebhookEvent]) -> bytes:
    """The body of the message about `events`, of which there is at least one."""
    seen: Counter[tuple[str, str]] = Counter()
    shown: list[WebhookEvent] = []
    for event in events:
        seen[event.run_id, event.kind] += 1
        if seen[event.run_id, event.kind] <= _OF_A_KIND and len(shown) < _EVENTS:
            shown.append(event)
    if webhook.format == "slack":
        return encode_json({"text": _slack(events, shown)})
    message = WebhookMessage(
        id=message_id,
        text=_summary(events),
        events=shown,
        counts=dict(Counter(event.kind.value for event in events)),
        omitted=len(events) - len(shown),
    )
    return encode_json(message)


def _summary(events: Sequence[WebhookEvent]) -> str:
    if len(events) == 1:
        return f"{events[0].run} at step {events[0].step}: {events[0].message}"
    runs = list(dict.fromkeys(event.run for event in events))
    counts = Counter(event.kind.value for event in events)
    kinds = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
    others = f" and {len(runs) - 1} other runs" if len(runs) > 1 else ""
    return f"{runs[0]}{others}: {kinds}"


def _slack(events: Sequence[WebhookEvent], shown: Sequence[WebhookEvent]) -> str:
    lines = [f"*{_escaped(_summary(events))}*"] if len(events) > 1 else []
    for event in shown[:_LINES]:
        run = f"<{event.url}|{_escaped(event.run)}>" if event.url else f"*{_escaped(event.run)}*"
        lines.append(f"{run} `{event.kind}` at step {event.step}: {_escaped(event.message[:_LINE])}")
    if omitted := len(events) - min(len(shown), _LINES):
        lines.append(f"… and {omitted} more")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Slack takes `<!channel>` and `<https://…|words>` for what they say: no run's name shall wake a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
