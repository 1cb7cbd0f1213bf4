"""A click that a fragment's timer carries along is taken out; everything else passes untouched."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.WidgetStates_pb2 import WidgetStates

from steadynorm_dashboard.components.single_clicks import SingleClicks


def rerun(*, timer: bool, **clicks: object) -> bytes:
    """A message of the page with a text, and with the clicks."""
    message = BackMsg()
    message.rerun_script.is_auto_rerun = timer
    message.rerun_script.fragment_id = "part"
    states: WidgetStates = message.rerun_script.widget_states
    states.widgets.add(id="name", string_value="kept")
    for kind, value in clicks.items():
        states.widgets.add(id=kind, **{kind: value})
    return bytes(message.SerializeToString())


def received(message: Message, kind: str = "websocket") -> Message:
    """What the application gets of `message`."""
    got: list[Message] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        got.append(await receive())

    async def receive() -> Message:
        return message

    async def send(_message: Message) -> None:
        raise AssertionError

    asyncio.run(SingleClicks(app)({"type": kind}, receive, send))
    return got[0]


def test_a_timers_message_clicks_nothing_and_keeps_the_rest() -> None:
    message = rerun(timer=True, trigger_value=True, json_trigger_value='["open"]')
    assert received({"type": "websocket.receive", "bytes": message})["bytes"] == rerun(timer=True)


@pytest.mark.parametrize("data", [rerun(timer=False, trigger_value=True), rerun(timer=True), b"\xff no message", b""])
def test_everything_else_passes_untouched(data: bytes) -> None:
    assert received({"type": "websocket.receive", "bytes": data})["bytes"] == data
    assert received({"type": "websocket.receive", "text": "ping"})["text"] == "ping"
    request = {"type": "http.request", "body": rerun(timer=True, trigger_value=True)}
    assert received(request, "http") == request
