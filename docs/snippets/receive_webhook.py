"""Check that a webhook's message comes from your server."""

# --8<-- [start:genuine]
from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError


def genuine(headers: Mapping[str, str], body: bytes, secret: str | bytes) -> bool:
    """body: the bytes as they came, before anything parses them."""
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):  # ValueError: headers or a body that no library of ours made
        return False
    return True


# --8<-- [end:genuine]
