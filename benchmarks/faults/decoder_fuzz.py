"""atheris, guided by coverage, on all that decodes what agents send: any bytes are a message or a known error."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
from typing import Any

from steadynorm_contract.codec import (
    MalformedMessage,
    decode_batch,
    decode_registration,
    encode_batch,
    encode_json,
)
from steadynorm_contract.settings import SettingsError
from steadynorm_contract.telemetry import (
    ROW_COLUMNS,
    SCALAR_COLUMNS,
    Parameter,
    ParameterRows,
    RunRegistration,
    StepScalars,
    TelemetryBatch,
)
from steadynorm_server.errors import ProblemError
from steadynorm_server.telemetry.validation import validate_batch, validate_registration, validate_size

__all__ = ["decode_anything", "decoder", "seeds"]


def seeds() -> list[bytes]:
    """Messages as agents send them, for the fuzzer to begin with."""
    scalars = StepScalars([1, 2], bytes(16), bytes(8 * len(SCALAR_COLUMNS)))
    rows = ParameterRows([2], 2, bytes(8 * len(ROW_COLUMNS)))
    batch = TelemetryBatch(incarnation=1, sequence=1, scalars=scalars, rows=rows, batch_ids={1: "a"})
    known = RunRegistration(name="r", run_id="r", parameters=[Parameter("w", (2, 2), "float32")])
    return [encode_batch(batch), encode_json(known)]


def decode_anything(data: bytes) -> None:
    """What the routes of agents do with a body before they touch Redis. Raises what no client may cause."""
    with contextlib.suppress(MalformedMessage, ProblemError, SettingsError):
        validate_batch(decode_batch(data), 2)
    with contextlib.suppress(MalformedMessage, ProblemError, SettingsError):
        validate_size(data)
        validate_registration(decode_registration(data))


def decoder(seconds: float) -> None:
    """Fuzz for so long. Ends with the crash's input where there is one, in a file of the temporary folder."""
    atheris: Any = importlib.import_module("atheris")  # not of our requirements: pip install atheris

    tries, began, starts = 0, time.monotonic(), seeds()

    def once(data: bytes) -> None:
        nonlocal tries
        tries += 1
        # An input is bytes, or begins with one that says which seed it is a change of.
        decode_anything(data)
        if data:
            seed = starts[data[0] % len(starts)]
            at = data[0] * 7 % len(seed)
            decode_anything(seed[:at] + data[1:] + seed[at + len(data) - 1 :])
        if time.monotonic() - began > seconds:
            print(json.dumps({"fault": "decoder", "seconds": round(seconds), "inputs": 2 * tries, "broken": []}))
            sys.stdout.flush()
            os._exit(0)  # atheris takes SystemExit for a crash

    for function in (decode_batch, decode_registration, validate_batch, validate_registration):
        atheris.instrument_func(function)
    atheris.Setup([sys.argv[0], "-max_len=4096", "-verbosity=0", f"-artifact_prefix={tempfile.gettempdir()}/"], once)
    atheris.Fuzz()
