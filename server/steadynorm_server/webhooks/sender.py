"""One signed POST to a webhook, and its result."""

import asyncio
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

import httpx
import msgspec
from standardwebhooks import Webhook as Signer

from steadynorm_contract import __version__
from steadynorm_server.webhooks.config import Webhook, WebhookError, host_of, is_blocked_host

_MAX_RETRY_AFTER_S = 3600.0


class DeliveryResult(msgspec.Struct, frozen=True):
    """Result of one POST. `gone`: the receiver wants no further attempt."""

    delivered: bool
    detail: str  # for people; never the address, which can be a secret
    gone: bool = False
    retry_after_s: float = 0.0


def signed_headers(keys: list[bytes], message_id: str, body: bytes, moment: int) -> dict[str, str]:
    """The headers of Standard Webhooks, with one signature by each key. moment: Unix seconds."""
    at = datetime.fromtimestamp(moment, UTC)
    headers = {"webhook-id": message_id, "webhook-timestamp": str(moment)}
    if keys:
        headers["webhook-signature"] = " ".join(Signer(key).sign(message_id, at, body.decode()) for key in keys)
    return headers


class WebhookSender:
    """Sends messages over connections that stay open during `async with WebhookSender() as sender:`.

    Proxies are taken from the usual variables (HTTPS_PROXY, NO_PROXY). clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # Redirects are not followed: where a message may go was checked for the address that is configured.
        self._client = httpx.AsyncClient(follow_redirects=False, timeout=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, webhook: Webhook, message_id: str, body: bytes) -> DeliveryResult:
        """Send it once, within webhook.timeout_s as a whole. Raises nothing."""
        try:
            async with asyncio.timeout(webhook.timeout_s):
                return await self._send(webhook, message_id, body)
        except TimeoutError:
            return DeliveryResult(False, f"no answer within {webhook.timeout_s:g} s")
        except WebhookError as error:  # of a secret's file, which may be being replaced
            return DeliveryResult(False, str(error))
        except OSError as error:  # a name that does not resolve
            return DeliveryResult(False, error.strerror or type(error).__name__)
        except ValueError:  # UnicodeError, from where the host is looked up
            return DeliveryResult(False, "its host is not a valid host name")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return DeliveryResult(False, str(error) or type(error).__name__)

    async def _send(self, webhook: Webhook, message_id: str, body: bytes) -> DeliveryResult:
        if blocked := await _blocked_address(webhook.url):
            return DeliveryResult(False, f"its host resolves to {blocked}, where nothing is sent")
        headers = {"Content-Type": "application/json", "User-Agent": f"steadynorm/{__version__}"}
        headers |= signed_headers(webhook.keys(), message_id, body, int(self._clock()))
        # The response's body is not read, so that none can be too long.
        async with self._client.stream("POST", webhook.url, content=body, headers=headers) as response:
            status = response.status_code
            if 200 <= status < 300:
                return DeliveryResult(True, str(status))
            retry_after_s = _seconds(response.headers.get("Retry-After"))
            return DeliveryResult(False, f"answered {status}", status == 410, retry_after_s)


async def _blocked_address(url: str) -> str | None:
    """The first of a host's addresses that no message may go to. A name that does not resolve here may at a proxy."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(*host_of(url), type=socket.SOCK_STREAM)
    except socket.gaierror:
        return None
    return next((str(address[0]) for *_, address in found if is_blocked_host(str(address[0]))), None)


def _seconds(header: str | None) -> float:
    return min(float(header), _MAX_RETRY_AFTER_S) if header and header.isascii() and header.isdigit() else 0.0
