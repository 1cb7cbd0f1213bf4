"""`steadynorm webhook-test`: sends a test message to the webhooks of a file, from this machine."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from steadynorm_cli.errors import CommandError

if TYPE_CHECKING:
    from steadynorm_server.webhooks.config import Webhook


def webhook_test(
    name: Annotated[str | None, typer.Argument(help="A webhook of the file. Default: all of them.")] = None,
    file: Annotated[
        Path | None, typer.Option(envvar="STEADYNORM_WEBHOOKS_FILE", help="The webhooks file.", show_envvar=True)
    ] = None,
) -> None:
    """Send a test message to the webhooks and print each result. Exit code 1 if one was not delivered."""
    from steadynorm_server.webhooks.config import WebhookError, read

    if file is None:
        raise CommandError("missing --file or STEADYNORM_WEBHOOKS_FILE.", 2)
    try:
        webhooks = [each for each in read(file) if name in (None, each.name)]
    except WebhookError as error:
        raise CommandError(str(error)) from error
    if not webhooks:
        raise CommandError(f"{file} holds no webhook {name or 'at all'}.", 2)
    if not asyncio.run(_send(webhooks)):
        raise typer.Exit(1)


async def _send(webhooks: list[Webhook]) -> bool:
    from steadynorm_contract.events import EventKind
    from steadynorm_contract.webhooks import WebhookEvent
    from steadynorm_server.webhooks.payload import build_audit_payload, build_payload
    from steadynorm_server.webhooks.sender import WebhookSender

    event = WebhookEvent(
        run_id="webhook-test",
        run="webhook-test",
        id="0-1",
        kind=EventKind.STARTED,
        step=0,
        time=time.time(),
        message="this is a test of the webhook; nothing happened.",
    )
    line = {"time": event.time, "kind": "note", "run_id": event.run_id, "actor": "webhook-test", "name": event.run}
    line |= {"entry": {"text": event.message}}
    good = True
    async with WebhookSender() as sender:
        for webhook in webhooks:
            message_id = secrets.token_hex(16)
            if webhook.audit:
                body = build_audit_payload(webhook, message_id, [msgspec.json.encode(line)])
            else:
                body = build_payload(webhook, message_id, [event], {(event.kind, event.run): 1})
            result = await sender.send(webhook, message_id, body)
            good &= result.delivered
            typer.echo(f"{'ok' if result.delivered else 'fail':<4}  {webhook.name}  {result.detail}")
    return good
