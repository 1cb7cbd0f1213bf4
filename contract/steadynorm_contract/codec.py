"""Encoding and decoding. Telemetry is MessagePack; everything else is JSON, where a non-finite number is null.

Every message from an agent carries `version`, which is checked before anything else is decoded, so that an agent and a
server of different versions get a clear error.
"""

from typing import TypeVar

import msgspec

from steadynorm_contract.settings import SettingsError
from steadynorm_contract.telemetry import SCHEMA_VERSION, RunRegistration, TelemetryBatch

__all__ = [
    "MalformedMessage",
    "UnsupportedVersion",
    "decode_batch",
    "decode_json",
    "decode_registration",
    "encodable",
    "encode_batch",
    "encode_json",
]

_T = TypeVar("_T")


class MalformedMessage(ValueError):
    """The bytes are not a valid message. The text says where."""


class UnsupportedVersion(MalformedMessage):
    """The message's schema version is not supported here."""


class _Versioned(msgspec.Struct):
    version: int = SCHEMA_VERSION


_batch_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(TelemetryBatch)
_batch_version = msgspec.msgpack.Decoder(_Versioned)


def encode_batch(batch: TelemetryBatch) -> bytes:
    """A batch as MessagePack."""
    return _batch_encoder.encode(batch)


def decode_batch(data: bytes) -> TelemetryBatch:
    """MessagePack to a batch. Raises MalformedMessage or UnsupportedVersion."""
    try:
        _require_version(_batch_version.decode(data).version)
        return _batch_decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"not a telemetry batch: {error}") from error


def encode_json(value: object) -> bytes:
    """JSON. NaN and infinities become null."""
    return msgspec.json.encode(value)


def decode_json(data: bytes | str, kind: type[_T]) -> _T:
    """JSON to a `kind`. Raises MalformedMessage; SettingsError where only a setting's value is invalid."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, SettingsError):
            raise error.__cause__ from error
        raise MalformedMessage(f"not a valid {kind.__name__}: {error}") from error
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"not valid JSON: {error}") from error


def decode_registration(data: bytes) -> RunRegistration:
    """JSON to a registration. Raises MalformedMessage, UnsupportedVersion or SettingsError."""
    _require_version(decode_json(data, _Versioned).version)
    return decode_json(data, RunRegistration)


def _require_version(version: int) -> None:
    if version != SCHEMA_VERSION:
        newer = "the server" if version > SCHEMA_VERSION else "the agent"
        raise UnsupportedVersion(
            f"schema version {version} is not supported, only {SCHEMA_VERSION} is. Upgrade {newer}."
        )


def encodable(text: str) -> str:
    """The text with ? in place of lone surrogates, such as names of files have: no encoder takes them."""
    return text.encode("utf-8", "replace").decode("utf-8")
