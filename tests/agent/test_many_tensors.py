"""As many tensors as a run may have, with long names: registered, recorded and shown by the real server."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from torch import nn

import steadynorm
from steadynorm.transport import factory
from steadynorm_contract.telemetry import MAX_BATCH_BYTES, MAX_PARAMETERS, MAX_REGISTRATION_BYTES

if TYPE_CHECKING:
    from tests.support.local_server import RunningStack


def model_of(names: list[str]) -> nn.Module:
    model = nn.Module()
    for name in names:
        model.register_parameter(name, nn.Parameter(torch.zeros(1)))
    return model


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones(1)
    optimizer.step()


@pytest.mark.slow
def test_a_hundred_thousand_tensors_are_registered_recorded_and_shown(stack: RunningStack) -> None:
    # Names that hardly compress.
    names = [f"{index:06d}_{hashlib.sha512(str(index).encode()).hexdigest()[:113]}" for index in range(MAX_PARAMETERS)]
    assert {len(name) for name in names} == {120}
    model = model_of(names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    agent = steadynorm.attach(model, optimizer, server=stack.server, token=stack.token, run="many")
    for _ in range(2):
        step(model, optimizer)
    assert agent.flush(120), agent.counters
    detail = stack.client.run(agent.run_id)
    assert (detail.parameters, detail.step) == (MAX_PARAMETERS, 2)
    rows = stack.client.parameters(agent.run_id)
    assert [row.name for row in rows.parameters] == names
    assert rows.parameters[-1].raw_norm == 1.0
    series = stack.client.series(agent.run_id, [f"raw_norm/{names[77_777]}"]).series
    assert next(iter(series.values())).max == [1.0]
    agent.close()
    assert agent.counters.dropped == agent.counters.errors == 0


def test_more_than_a_registration_takes_is_said_at_attach(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REGISTRATION_BYTES == 33_554_432
    monkeypatch.setattr(factory, "MAX_REGISTRATION_BYTES", 1_000_000)  # the names of 70,000 tensors would take seconds
    names = [f"{index:06d}_{'x' * 400}" for index in range(2500)]
    model = model_of(names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"names and shapes of the parameters must take at most 1000000 bytes: got 1"):
        steadynorm.attach(model, optimizer, server="http://127.0.0.1:1")
    agent = steadynorm.attach(model, optimizer)  # and after the error nothing is attached
    step(model, optimizer)
    assert agent.step == 1
    agent.close()


def test_names_that_no_server_takes_are_shortened_and_the_run_is_recorded(
    stack: RunningStack, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_of(["x" * 600 + "a", "x" * 600 + "b", "caf\udce9", "plain"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tags = {"data": "caf\udce9"}
    agent = steadynorm.attach(model, optimizer, server=stack.server, token=stack.token, run="na\udcefve", tags=tags)
    step(model, optimizer)
    assert agent.flush(20), agent.counters
    detail = stack.client.run(agent.run_id)
    assert (detail.name, detail.tags["data"]) == ("na?ve", "caf?")
    names = [row.name for row in stack.client.parameters(agent.run_id).parameters]
    assert [len(name) for name in names] == [500, 500, 13, 5]
    assert len(set(names)) == 4
    assert (names[2][:5], names[3]) == ("caf?~", "plain")
    assert caplog.text.count("They are shortened") == 1
    assert set(agent.statistics()) == set(dict(model.named_parameters())), "only what is recorded is shortened"
    agent.close(state="failed", reason="no file caf\udce9")
    assert stack.client.run(agent.run_id).state == "failed"
    assert agent.counters.sending_errors == 0


def gzip_bomb() -> bytes:
    """What expands to 2 GiB of zeros: after a full flush the same bytes expand to the same again."""
    deflate, some = zlib.compressobj(wbits=31), bytes(2**24)
    blocks = [deflate.compress(some) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return blocks[0] + 127 * blocks[1]


def post(stack: RunningStack, content: bytes, **headers: str) -> Any:
    return httpx.post(
        f"{stack.server}/api/v1/runs",
        content=content,
        headers={"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json", **headers},
        timeout=60,
    )


def test_a_compressed_registration_is_taken_and_bounded_by_what_it_expands_to(stack: RunningStack) -> None:
    known = {"version": 1, "name": "compressed", "parameters": [["p", [1], "float32"]]}
    body = json.dumps(known).encode()
    zipped = {"Content-Encoding": "gzip"}
    assert post(stack, gzip.compress(body), **zipped).status_code == 201
    long = json.dumps({**known, "tags": {"a": " " * (MAX_REGISTRATION_BYTES - len(body) + 1000)}}).encode()
    for content, headers in ((long, {}), (gzip.compress(long), zipped), (gzip_bomb(), zipped)):
        answer = post(stack, content, **headers)
        assert (answer.status_code, "at most 33554432 bytes" in answer.text) == (413, True)
    for content in (body, gzip.compress(body)[:-4], gzip.compress(body) + b"more"):
        answer = post(stack, content, **zipped)
        assert (answer.status_code, "gzip" in answer.text) == (400, True)
    answer = post(stack, body, **{"Content-Encoding": "br"})
    assert (answer.status_code, "uncompressed or gzip: got Content-Encoding br" in answer.text) == (415, True)
    between = json.dumps({**known, "host": " " * (MAX_BATCH_BYTES + 1)}).encode()
    assert post(stack, between).status_code == 422  # of the length of `host`, no longer of the body's
