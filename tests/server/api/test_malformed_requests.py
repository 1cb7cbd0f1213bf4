"""Some 1,100 malformed requests: never a 500, never a change of what is stored. benchmarks/malformed.py sends more."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import redis
from tests.support.redis_server import content

from steadynorm_contract.problems import Problem

COUNT = 1100


@pytest.fixture
def malformed(root: Path) -> Iterator[Any]:
    """benchmarks/malformed_requests.py"""
    sys.path.insert(0, str(root / "benchmarks"))
    yield importlib.import_module("malformed_requests")
    sys.path.remove(str(root / "benchmarks"))


def dump(url: str) -> dict[bytes, object]:
    """Everything that the store holds, key by key."""
    with redis.Redis.from_url(url, protocol=2) as client:
        return content(client)


async def test_no_malformed_request_is_a_defect_or_changes_anything(agent: Any, store_url: str, malformed: Any) -> None:
    await agent.send([1, 2, 3])
    assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    assert (await agent.change(1, {"gamma2": 0.999})).status_code == 200
    before = dump(store_url)
    assert len(before) > 4
    statuses: Counter[int] = Counter()
    for sent in malformed.malformed("tiny-1", COUNT):
        answer = await agent.client.request(sent.method, sent.path, content=sent.body, headers=sent.headers)
        statuses[answer.status_code] += 1
        assert 400 <= answer.status_code < 500, (sent.method, sent.path, sent.body[:200], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        found = msgspec.json.decode(answer.content, type=Problem)
        assert found.detail
        assert len(answer.content) < 20_000, "an error tells what is wrong, and does not send it back"
    assert dump(store_url) == before
    assert set(statuses) >= {400, 404, 405, 409, 412, 413, 415, 422}
    assert statuses.total() == COUNT


async def test_a_compressed_body_is_refused_before_it_is_read(agent: Any, malformed: Any) -> None:
    read = 0

    async def parts() -> Any:
        nonlocal read
        for _ in range(100):
            read += 1
            yield malformed.ZIP_BOMB

    answer = await agent.client.post(f"{agent.run}/telemetry", content=parts(), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "bodies must be uncompressed: got Content-Encoding gzip" in answer.json()["detail"]
    assert read <= 1


async def test_a_chunked_body_is_measured_while_it_comes(agent: Any) -> None:
    read = 0

    async def parts() -> Any:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield bytes(100_000)

    answer = await agent.client.post(f"{agent.run}/telemetry", content=parts())
    assert answer.status_code == 413
    assert read * 100_000 < 5_000_000


async def test_a_nested_change_is_refused_by_its_depth(agent: Any) -> None:
    deep = b'{"settings": {"gamma1": ' + b"[" * 40 + b"]" * 40 + b"}}"
    answer = await agent.client.patch(f"{agent.run}/settings", content=deep, headers={"If-Match": '"0"'})
    assert answer.status_code == 400
    assert "at most 32 lists and objects" in answer.json()["detail"]
    # Brackets in a text are none.
    shown = await agent.change(0, {"gamma2": 0.9}, reason='"\\[{' * 60)
    assert shown.status_code == 200


async def test_problems_escape_what_they_tell(agent: Any) -> None:
    for name in ("<script>alert(1)", 'a"b\\c\nd', "\u2028‮"):
        answer = await agent.client.get(f"/runs/{quote(name)}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert repr(name) in msgspec.json.decode(answer.content, type=Problem).detail


async def test_names_cannot_break_out_of_metrics(api: Any, make_agent: Any) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    name = 'x"} 1\nsteadynorm_injected 1\n# HELP \\'
    named = make_agent(api, name=name)
    await named.register()
    await named.send([1], spikes=1, spike_ratio_max=50.0)
    text = (await api.get("http://test/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert "steadynorm_injected" not in families
    (info,) = families["steadynorm_run_step"].samples
    assert info.labels["run"] == name
