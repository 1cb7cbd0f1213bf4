"""What a webhook's receiver gets: the message, and the signature that shows whose it is.

    Steadynorm-Id: 6f1d…                     of the message; the same each time that it is sent again
    Steadynorm-Signature: t=1700000000,v1=5257a8…

v1 is the HMAC-SHA256, under the shared secret, of "<t>.<body>" in hexadecimal digits. While a secret is exchanged there
are two v1, one by each.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence

import msgspec

from steadynorm_contract.events import EventKind

__all__ = ["ID_HEADER", "SIGNATURE_HEADER", "TOLERANCE_S", "WebhookEvent", "WebhookMessage", "sign", "verify"]

ID_HEADER = "Steadynorm-Id"
SIGNATURE_HEADER = "Steadynorm-Signature"
TOLERANCE_S = 300.0
"""How old or how new a signature may be: who recorded a message cannot send it tomorrow."""

_DIGITS = 15
"""Of a moment; anybody can send a header, and Python raises on integers that are too long."""


class WebhookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of one run. `run_id` and `id` together name it for ever."""

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
    """The body of a POST: what happened since the message before it, merged."""

    id: str
    text: str  # all of it in one line
    events: list[WebhookEvent]  # in the order in which they happened; of a burst only the first ones
    counts: dict[str, int]  # by kind, of all events
    omitted: int  # how many of them `events` leaves out; GET /runs/{run_id}/events has them


def sign(secrets: Sequence[bytes], body: bytes, moment: int) -> str:
    """The signature's header, with one v1 by each secret. moment: Unix seconds."""
    return ",".join((f"t={moment}", *(f"v1={_digest(secret, moment, body)}" for secret in secrets)))


def verify(header: str, body: bytes, secret: bytes, now: float | None = None) -> bool:
    """Whether `body` was signed with `secret` within the last TOLERANCE_S. body: the bytes as they came.

    Raises nothing, whatever the header says.
    """
    fields = [each.partition("=")[::2] for each in header.split(",")]
    moment = dict(fields).get("t", "")
    if not (moment.isascii() and moment.isdigit() and len(moment) <= _DIGITS):
        return False
    if abs((time.time() if now is None else now) - int(moment)) > TOLERANCE_S:
        return False
    wanted = _digest(secret, int(moment), body).encode()
    return any(hmac.compare_digest(wanted, value.encode("utf-8", "replace")) for name, value in fields if name == "v1")


def _digest(secret: bytes, moment: int, body: bytes) -> str:
    return hmac.new(secret, b"%d.%b" % (moment, body), hashlib.sha256).hexdigest()
