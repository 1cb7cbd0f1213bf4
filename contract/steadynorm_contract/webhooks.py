"""The body of a webhook's message: what its receiver parses after it verified the signature.

Messages follow https://www.standardwebhooks.com: headers webhook-id (the same each time that a message is sent),
webhook-timestamp and webhook-signature. Verify them with the library `standardwebhooks`; docs/webhooks.md shows how.
"""

from __future__ import annotations

import msgspec

from steadynorm_contract.events import EventKind

__all__ = ["WebhookEvent", "WebhookMessage"]


class WebhookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of one run. `run_id` and `id` together identify it permanently."""

    run_id: str
    run: str  # its name
    id: str
    kind: EventKind
    step: int
    time: float  # Unix seconds
    message: str  # one sentence for people
    parameter: str | None = None
    value: float | None = None
    batch_id: str | None = None
    url: str | None = None  # of the run's page, where the server knows its dashboard


class WebhookMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a POST: the events since the previous message, merged."""

    id: str
    text: str  # a summary in one line
    events: list[WebhookEvent]  # in the order in which they happened; of a burst only the first ones
    counts: dict[str, int]  # by kind, of all events
    omitted: int  # how many of them `events` leaves out; GET /runs/{run_id}/events has them
