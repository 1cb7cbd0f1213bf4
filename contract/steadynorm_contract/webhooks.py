"""The body of a webhook's message: what its receiver parses after it verified the signature.

Messages follow https://www.standardwebhooks.com: headers webhook-id (the same each time that a message is sent),
webhook-timestamp and webhook-signature. Verify them with the library `standardwebhooks`; docs/webhooks.md shows how.
"""

from typing import Any

import msgspec

from steadynorm_contract.events import Event

__all__ = ["AuditMessage", "WebhookEvent", "WebhookMessage"]


class WebhookEvent(Event, frozen=True, kw_only=True):
    """One event of one run. `run_id` and `id` together identify it permanently."""

    run_id: str
    run: str  # its name
    url: str | None = None  # of the run's page, where the server knows its dashboard


class WebhookMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a POST: the events since the previous message, merged."""

    id: str
    text: str  # a summary in one line
    events: list[WebhookEvent]  # in the order in which they happened; of a burst only the first ones
    counts: dict[str, int]  # by kind, of all events
    omitted: int  # how many of them `events` leaves out; GET /runs/{run_id}/events has them


class AuditMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a POST to a webhook with `audit = true`: lines of the audit stream since the previous message."""

    id: str
    text: str  # a summary in one line
    entries: list[dict[str, Any]]  # time, kind, run_id, actor, name, and what the run's own list has
