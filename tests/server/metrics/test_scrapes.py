"""/metrics is answered once for all who ask at a time, compressed and as OpenMetrics where that is asked for."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families
from pydantic import SecretStr

from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import ProblemError
from steadynorm_server.metrics import scrapes
from steadynorm_server.metrics.instruments import ServerMetrics
from steadynorm_server.metrics.scrapes import Scrapes

URL = "http://test/metrics"
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"
SIGNS = ("paused", "connected", "listening")


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """Address of an empty Valkey: nothing here depends on the kind of store."""
    return empty_valkey


async def scrape(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.get(URL, headers={"accept-encoding": "identity", **headers})


def values(text: str, parse: Any) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name.startswith("steadynorm_") and "run_id" in sample.labels
    }


async def test_eight_who_ask_at_once_cost_one_reading_and_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "FRESH_S", 60.0)
    read = 0

    async def gather() -> list[Any]:
        nonlocal read
        await asyncio.sleep(0)
        read += 1
        return []

    shared = Scrapes(ServerMetrics(), gather)
    answers = await asyncio.gather(*(shared.answer(None) for _ in range(8)))
    assert read == 1
    assert len({body for body, _ in answers}) == 1
    monkeypatch.setattr(scrapes, "FRESH_S", 0.0)
    await shared.answer(None)
    assert read == 2


async def test_who_waits_for_a_scrape_that_fails_does_not_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "FRESH_S", 60.0)
    tried = 0

    async def gather() -> list[Any]:
        nonlocal tried
        await asyncio.sleep(0)
        tried += 1
        raise ProblemError(503, "the store does not answer.")

    shared = Scrapes(ServerMetrics(), gather)
    answers = await asyncio.gather(*(shared.answer(None) for _ in range(8)), return_exceptions=True)
    assert tried == 1
    assert all(isinstance(each, ProblemError) and each.status == 503 for each in answers)


async def test_a_scrape_is_gzip_and_openmetrics_for_whom_it_is(agent: Any) -> None:
    await agent.send([1], spikes=2, nonfinite=1)
    client = agent.client
    plain = await scrape(client)
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "content-encoding" not in plain.headers
    packed = await scrape(client, **{"accept-encoding": "deflate, gzip;q=0.5"})
    assert packed.headers["content-encoding"] == "gzip"  # httpx has expanded it
    assert values(packed.text, text_families) == values(plain.text, text_families)
    assert "content-encoding" not in (await scrape(client, **{"accept-encoding": "gzip;q=0"})).headers
    both = await scrape(client, accept=OPENMETRICS, **{"accept-encoding": "gzip"})
    assert both.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert both.text.endswith("\n# EOF\n")
    assert values(both.text, openmetrics_families) == values(plain.text, text_families)
    assert values(both.text, openmetrics_families)["steadynorm_spikes_totaltinytiny-1"] == 2


async def test_a_token_that_is_bound_to_runs_shares_no_answer_with_one_that_is_not(
    serve: Any, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrapes, "FRESH_S", 60.0)
    client = await serve()
    for name in ("ours", "theirs"):
        await make_agent(client, name=name, run_id=name).register()
    shared: Scrapes = client.app.state.scrapes
    bodies = [gzip.decompress((await shared.answer(bound, "", "gzip"))[0]) for bound in (None, ("ours",), None)]
    assert [b'run_id="theirs"' in body for body in bodies] == [True, False, True]
    assert all(b'run_id="ours"' in body for body in bodies)


async def test_the_metrics_say_whether_a_run_is_paused_connected_and_listening(agent: Any, clock: Any) -> None:
    async def signs() -> tuple[float, ...]:
        found = values((await scrape(agent.client)).text, text_families)
        return tuple(found[f"steadynorm_run_{name}tinytiny-1"] for name in SIGNS)

    await agent.send([1])
    assert await signs() == (0, 1, 0)
    await agent.client.get(f"{agent.run}/settings", params={"after_revision": 0, "wait": 0.01})
    assert await signs() == (0, 1, 1)
    clock.now += 31
    await agent.client.get(f"{agent.run}/settings", params={"after_revision": 0, "wait": 0.01})
    assert await signs() == (0, 1, 1), "an evaluation: no telemetry, and its agent listens"
    await agent.change(0, {"paused": True})
    await agent.send([2], applied=[agent.applied(1, 2, paused=True)])
    assert await signs() == (1, 1, 1)
    clock.now += 120
    assert await signs() == (1, 0, 0)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"tls": "terminated"}, True),  # whoever asks comes through a proxy
        ({"trusted_proxy": "127.0.0.1"}, True),
        ({"host": "0.0.0.0", "metrics_auth": False}, False),
        ({"metrics_auth": True}, True),
    ],
)
async def test_metrics_need_a_token_beyond_loopback_unless_told_otherwise(
    serve: Any, settings: dict[str, Any], needed: bool, tmp_path: Any
) -> None:
    tokens = Tokens.configured(
        ServerConfig(data=tmp_path, viewer_token=SecretStr("v" * 32), operator_token=SecretStr("o" * 32))
    )
    client = await serve(tokens, **settings)
    assert (await client.get(URL, headers={"Authorization": ""})).status_code == (401 if needed else 200)
    assert (await client.get(URL, headers={"Authorization": "Bearer " + "v" * 32})).status_code == 200


def test_a_server_below_a_proxys_path_is_behind_a_proxy(tmp_path: Path) -> None:
    assert ServerConfig(data=tmp_path, root_path="/steadynorm").metrics_need_token
    assert not ServerConfig(data=tmp_path, root_path="/steadynorm", metrics_auth=False).metrics_need_token
