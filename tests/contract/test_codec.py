"""Bytes that are no message are refused with a word that helps; versions part politely."""

from __future__ import annotations

import contextlib
import math
import struct
from array import array
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadynorm_contract.changes import Change
from steadynorm_contract.codec import (
    MalformedMessage,
    UnsupportedVersion,
    decode_batch,
    decode_json,
    decode_registration,
    encode_batch,
    encode_json,
)
from steadynorm_contract.series import Series
from steadynorm_contract.settings import Settings, SettingsError
from steadynorm_contract.telemetry import (
    AgentCounters,
    Desired,
    ParameterRows,
    RunRegistration,
    StepScalars,
    TelemetryBatch,
    floats_from_bytes,
    floats_to_bytes,
)

GOOD = encode_batch(TelemetryBatch(incarnation=1, sequence=1))


@pytest.mark.parametrize(
    ("version", "who"), [(2, "the server"), (0, "the agent"), (-1, "the agent"), (99, "the server")]
)
def test_another_version_says_who_has_to_be_upgraded(version: int, who: str) -> None:
    said = f"schema version {version} is not supported, only 1 is. Upgrade {who}."
    with pytest.raises(UnsupportedVersion) as refused:
        decode_batch(msgspec.msgpack.encode({"version": version}))
    assert str(refused.value) == said
    with pytest.raises(UnsupportedVersion) as refused:
        decode_registration(msgspec.json.encode({"version": version, "nothing": "known"}))
    assert str(refused.value) == said


def test_a_message_without_a_version_is_of_the_first() -> None:
    assert decode_registration(b'{"name": "x"}').version == 1


BROKEN: list[bytes] = [
    b"",
    b"\xc1",
    b"\x00",
    GOOD[:-1],
    GOOD + b"\x00",
    b"\x91" * 100_000,
    b"\xdd\xff\xff\xff\xff",
    msgspec.msgpack.encode({"incarnation": "1", "sequence": 1}),
    msgspec.msgpack.encode({"incarnation": 1}),
    msgspec.msgpack.encode({"incarnation": 1, "sequence": 1, "applied": [{"revision": 1}]}),
    msgspec.msgpack.encode({"incarnation": 1, "sequence": 1, "scalars": {"steps": [1], "times": b"", "data": b""}}),
    msgspec.msgpack.encode(
        {"incarnation": 1, "sequence": 1, "rows": {"steps": [1], "parameters": 2, "data": b"", "columns": ["x"]}}
    ),
    msgspec.msgpack.encode({"incarnation": 1, "sequence": 1, "scalars": {"steps": [1.5], "times": b"", "data": b""}}),
]


@pytest.mark.parametrize("data", BROKEN, ids=lambda data: data[:12].hex())
def test_a_broken_batch_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage, match="not a telemetry batch"):
        decode_batch(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    for decode in (decode_batch, decode_registration, lambda text: decode_json(text, Change)):
        with contextlib.suppress(MalformedMessage, SettingsError):
            decode(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_batch_with_one_wrong_byte_is_a_batch_or_malformed(at: int, byte: int) -> None:
    with contextlib.suppress(MalformedMessage, SettingsError):
        decode_batch(GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"revision": NaN}',
        '{"revision": 1}',
        "[" * 100_000,
        b"\xff",
        '{"revision": "1", "settings": {}}',
    ],
    ids=lambda text: str(text)[:20],
)
def test_broken_json_is_malformed(text: bytes | str) -> None:
    with pytest.raises(MalformedMessage, match=r"not (valid JSON|a valid Desired)"):
        decode_json(text, Desired)


def test_a_bad_setting_in_a_message_names_the_setting() -> None:
    for data in (
        b'{"name": "x", "settings": {"gamma1": 1.0}}',
        b'{"name": "x", "settings": {"mode": "off", "eps": 1}}',
    ):
        with pytest.raises(SettingsError):
            decode_registration(data)


def test_numbers_that_are_none_become_null() -> None:
    series = Series([1], [1], [math.nan], [math.inf], [-math.inf], [1.5])
    assert encode_json(series) == b'{"step":[1],"count":[1],"min":[null],"mean":[null],"max":[null],"time":[1.5]}'


@given(st.lists(st.floats(width=32)))
def test_floats_travel_as_float32(values: list[float]) -> None:
    again = floats_from_bytes(floats_to_bytes(values))
    assert again.tobytes() == array("f", values).tobytes()
    assert floats_to_bytes(values) == struct.pack(f"<{len(values)}f", *values)


def test_a_cut_float_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        floats_from_bytes(b"\x00" * 7)


def test_scalars_give_their_columns() -> None:
    scalars = StepScalars([3, 4], struct.pack("<2d", 0.5, 1.5), floats_to_bytes([1, 2, 3, 4]), ("loss", "raw_norm"))
    assert scalars.time_values() == (0.5, 1.5)
    assert list(scalars.column("raw_norm")) == [2, 4]
    assert all(map(math.isnan, scalars.column("target_min")))
    assert len(scalars.column("target_min")) == 2


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (StepScalars, {"steps": [1], "times": bytes(8), "data": bytes(47)}),
        (StepScalars, {"steps": [1], "times": bytes(7), "data": bytes(48)}),
        (ParameterRows, {"steps": [1], "parameters": 2, "data": bytes(41)}),
    ],
)
def test_a_matrix_of_another_size_is_refused(kind: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected \d+ bytes for the stated steps and columns, got \d+"):
        kind(**fields)


@given(
    st.builds(
        RunRegistration,
        name=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        step=st.integers(0, 2**53),
        tags=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
        settings=st.builds(Settings, gamma1=st.floats(0, 0.99), paused=st.booleans()),
    )
)
def test_a_registration_survives_the_wire(registration: RunRegistration) -> None:
    assert decode_registration(encode_json(registration)) == registration


@given(st.builds(AgentCounters, *[st.integers(0, 2**53)] * 5), st.integers(1, 2**53))
def test_a_batch_survives_the_wire(counters: AgentCounters, sequence: int) -> None:
    batch = TelemetryBatch(incarnation=1, sequence=sequence, counters=counters)
    assert decode_batch(encode_batch(batch)) == batch
