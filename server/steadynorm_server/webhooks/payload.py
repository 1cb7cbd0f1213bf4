"""The body of a message about many events: JSON for programs, Slack's text for people. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event
from steadynorm_contract.webhooks import WebhookEvent, WebhookMessage
from steadynorm_server.webhooks.config import Webhook

_EVENTS = 50
_LINES = 20
_LINE = 400


def to_webhook_event(run_id: str, run: str, event: Event, dashboard_url: str | None) -> WebhookEvent:
    """An event in the form that receivers get."""
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


def build_payload(
    webhook: Webhook, message_id: str, events: Sequence[WebhookEvent], counts: Mapping[tuple[str, str], int]
) -> bytes:
    """The body of a message. events: at least one, in the order in which they happened, of a storm only the first ones
    of each run and kind; counts: of all events, by (kind, run's name).
    """
    total = sum(counts.values())
    if webhook.format == "slack":
        return encode_json({"text": _slack(events, counts)})
    shown = _shown(events, _EVENTS)
    message = WebhookMessage(
        id=message_id,
        text=_summary(events, counts),
        events=shown,
        counts=dict(_by_kind(counts)),
        omitted=total - len(shown),
    )
    return encode_json(message)


def _shown(events: Sequence[WebhookEvent], limit: int) -> list[WebhookEvent]:
    """The first event of every run and kind before the second of any: a storm of a few runs hides no other run."""
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for place, event in enumerate(events):
        seen[event.run_id, event.kind] += 1
        turns.append((seen[event.run_id, event.kind], place))
    return [events[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


def _summary(events: Sequence[WebhookEvent], counts: Mapping[tuple[str, str], int]) -> str:
    if sum(counts.values()) == 1:
        return f"{events[0].run} at step {events[0].step}: {events[0].message}"
    runs = list(dict.fromkeys([*(event.run for event in events), *(run for _, run in counts)]))
    kinds = ", ".join(f"{number} {kind}" for kind, number in _by_kind(counts).most_common())
    others = f" and {len(runs) - 1} other runs" if len(runs) > 1 else ""
    return f"{runs[0]}{others}: {kinds}"


def _by_kind(counts: Mapping[tuple[str, str], int]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for (kind, _), number in counts.items():
        kinds[kind] += number
    return kinds


def _slack(events: Sequence[WebhookEvent], counts: Mapping[tuple[str, str], int]) -> str:
    total, shown = sum(counts.values()), _shown(events, _LINES)
    lines = [f"*{_escaped(_summary(events, counts))}*"] if total > 1 else []
    for event in shown:
        run = f"<{event.url}|{_escaped(event.run)}>" if event.url else f"*{_escaped(event.run)}*"
        lines.append(f"{run} `{event.kind}` at step {event.step}: {_escaped(event.message[:_LINE])}")
    if omitted := total - len(shown):
        lines.append(f"… and {omitted} more")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Slack interprets `<!channel>` and `<https://…|words>`: a run's name must not notify a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
