"""The body of a message about many events: JSON for programs, Slack's text for people. Pure functions."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from steadynorm_contract.codec import encode_json
from steadynorm_contract.events import Event
from steadynorm_contract.webhooks import AuditMessage, WebhookEvent, WebhookMessage
from steadynorm_contract.words import counted
from steadynorm_server.webhooks.config import Webhook

_EVENTS = 50
_LINES = 20
_LINE = 400
_LIVE = re.compile(r"(?<=<)[!@#]|@(?=\S)|:(?=//)|\bwww(?=\.)|\](?=\()", re.IGNORECASE)
"""After these a chat takes what follows for a mention or an address: Slack by its `<…>`, Discord and Mattermost, which
take Slack's format, by plain `@everyone`, `https://…` and `[words](address)`."""
_WORD_JOINER = "\u2060"


def to_webhook_event(run_id: str, run: str, event: Event, dashboard_url: str | None) -> WebhookEvent:
    """An event in the form that receivers get."""
    url = f"{dashboard_url.rstrip('/')}/?run={quote(run_id)}" if dashboard_url else None
    return WebhookEvent(run_id=run_id, run=run, url=url, **msgspec.structs.asdict(event))


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


_VERBS = frozenset({"registered", "adopted", "expired", "removed", "unscheduled"})
"""Kinds of lines that say what was done; the others say to what of the run."""


def build_audit_payload(webhook: Webhook, message_id: str, lines: Sequence[bytes]) -> bytes:
    """The body of a message with lines of the audit stream, at least one, in the order in which they came."""
    entries = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
    runs = len({entry["run_id"] for entry in entries})
    text = f"{_did(entries[0])}" if len(entries) == 1 else f"{len(entries)} audit entries of {counted(runs, 'run')}"
    if webhook.format == "json":
        return encode_json(AuditMessage(id=message_id, text=text, entries=entries))
    shown = [_escaped(_did(entry)[:_LINE]) for entry in entries[:_LINES]]
    if omitted := len(entries) - len(shown):
        shown.append(f"… and {omitted} more")
    return encode_json({"text": "\n".join(shown if len(entries) == 1 else [f"*{text}*", *shown])})


def _did(entry: Mapping[str, Any]) -> str:
    """One line of the audit stream for people."""
    what = entry.get("entry") or {}
    after = what.get("after") or what.get("settings") if entry["kind"] in ("settings", "lifecycle", "adopted") else None
    changed = ", ".join(f"{name}={value}" for name, value in after.items()) if isinstance(after, dict) else ""
    why = what.get("reason") or what.get("text") or entry.get("reason") or ""
    about = " ".join(part for part in (changed, f"({why})" if why else "") if part)
    named = f"{entry.get('name') or entry['run_id']} ({entry['run_id']})"
    of = " " if entry["kind"] in _VERBS else " of "
    return f"{entry['actor']}: {entry['kind']}{of}{named}{': ' if about else ''}{about}"


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
    """As it is written, and nothing else: a run's or a parameter's name must wake no channel and lead nowhere."""
    defused = _LIVE.sub(lambda found: found[0] + _WORD_JOINER, text)
    return defused.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
