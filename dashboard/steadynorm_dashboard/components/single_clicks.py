"""ASGI middleware that delivers each click once.

Streamlit's page sends a click in a message of its own, a moment after it happened. When the timer of a fragment fires
in that moment, as it does in a busy browser, the timer's message carries the click too, and each of these messages
runs the button's callback: one click on "Reset statistics" then resets twice, and "Apply" is sent again after a
conflict that nobody has read. A timer's message clicks nothing, so clicks are taken out of it.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg

_CLICKS = ("trigger_value", "string_trigger_value", "chat_input_value", "json_trigger_value")
"""The kinds of widget values that are events."""


class SingleClicks:
    """Passes everything on to `app`, the messages of timers without the clicks that the browser added."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def filtered() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive" and message.get("bytes"):
                message["bytes"] = without_clicks_of_timers(message["bytes"])
            return message

        await self._app(scope, filtered if scope["type"] == "websocket" else receive, send)


def without_clicks_of_timers(data: bytes) -> bytes:
    """`data`, a message of Streamlit's page; where a timer sent it, without clicks."""
    try:
        message = BackMsg.FromString(data)
    except DecodeError:
        return data  # Streamlit refuses it
    if not message.rerun_script.is_auto_rerun:
        return data
    states = message.rerun_script.widget_states.widgets
    kept = [state for state in states if state.WhichOneof("value") not in _CLICKS]
    if len(kept) == len(states):
        return data
    del states[:]
    states.extend(kept)
    filtered: bytes = message.SerializeToString()
    return filtered
