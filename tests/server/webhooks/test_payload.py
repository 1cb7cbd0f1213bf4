"""In a chat a name is what is written, and nothing that the chat acts on."""

from __future__ import annotations

import html
import re

import msgspec
import pytest

from steadynorm_contract.events import EventKind
from steadynorm_server.runs.events import new_event
from steadynorm_server.webhooks.config import Webhook
from steadynorm_server.webhooks.payload import build_payload, to_webhook_event

ACTED_ON = {
    "Slack": r"<[!@#][^>]*>|<https?://[^>]*>|(?<![<\w])https?://",
    "Discord": r"@(?:everyone|here)|<@[!&]?\w+>|https?://|\]\(",
    "Mattermost": r"@(?:all|channel|here|[a-z][\w.-]*)|https?://|\bwww\.|\]\(",
}
"""What each takes for a mention or an address in a message of Slack's format, by their documentation. Discord and
Mattermost do so after &lt; and its like are <."""


@pytest.mark.parametrize("chat", ACTED_ON)
@pytest.mark.parametrize(
    "name",
    [
        "@everyone", "@here look", "(@channel)", "@all", "mail@evil.example", "<!channel>", "<!here|here>", "<@U012AB>",
        "<@&123>", "<@!123>", "https://evil.example/x", "HTTPS://evil.example", "<https://evil.example|a run>",
        "www.evil.example", "[a run](evil.example)", "![](https://evil.example/pixel.png)", "a @ b",
    ],
)  # fmt: skip
def test_no_name_of_a_run_or_a_parameter_calls_anybody_or_leads_anywhere(name: str, chat: str) -> None:
    happened = new_event(EventKind.NONFINITE, 3, 1.0, f"the gradient of {name} was not finite.")
    event = to_webhook_event("run-1", name, happened, None)
    webhook = Webhook(name="chat", url="https://chat.example", format="slack")
    counts = {(str(event.kind), event.run): 2}
    text = msgspec.json.decode(build_payload(webhook, "1", [event, event], counts))["text"]
    if chat != "Slack":
        text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert re.search(ACTED_ON[chat], text, re.IGNORECASE) is None
    assert html.unescape(text).replace("\u2060", "").count(name) == 5  # the summary's one, and two of each event


def test_names_that_are_harmless_stay_as_they_are() -> None:
    name = "transformer.h.0.attn/c_attn.weight: a*b #3"
    event = to_webhook_event("run-1", name, new_event(EventKind.SPIKE, 3, 1.0, "a spike."), None)
    webhook = Webhook(name="chat", url="https://chat.example", format="slack")
    text = msgspec.json.decode(build_payload(webhook, "1", [event], {(event.kind, event.run): 1}))["text"]
    assert text.startswith(f"*{name}* ")
