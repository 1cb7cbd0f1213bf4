"""Telemetry for schemathesis, which has no MessagePack of its own."""

from __future__ import annotations

from typing import Any

import msgspec
import schemathesis


@schemathesis.serializer("application/msgpack")
def message_pack(_: Any, value: Any) -> bytes:
    """The generated value as it goes over the wire; as JSON where MessagePack has no number so large."""
    try:
        return msgspec.msgpack.encode(value)
    except OverflowError:
        return msgspec.json.encode(value)
