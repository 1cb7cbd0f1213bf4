"""Metrics and events by OTLP: a receiver in a process of its own has them as /metrics and the runs have them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from steadynorm_server.otlp import sender

Start = Callable[..., "Receiver"]


class Receiver:
    """The process, and what it printed."""

    def __init__(self, *arguments: str) -> None:
        program = str(Path(__file__).parent / "receiver.py")
        self.process = subprocess.Popen([sys.executable, program, *arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._out: IO[str] = self.process.stdout
        self._read: list[dict[str, Any]] = []  # that nobody asked for yet
        self.url = f"http://127.0.0.1:{int(self._out.readline())}"

    async def next(self, path: str) -> dict[str, Any]:
        """The next request to this path."""
        for _ in range(200):
            if (waiting := next((each for each in self._read if each["path"] == path), None)) is not None:
                self._read.remove(waiting)
                return waiting
            self._read.append(json.loads(await asyncio.wait_for(asyncio.to_thread(self._out.readline), 30)))
        raise AssertionError(f"200 requests came, and none to {path}")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """start(*arguments): a receiver, to which the standard variables lead."""
    started: list[Receiver] = []

    def begin(*arguments: str) -> Receiver:
        started.append(Receiver(*arguments))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started[-1].url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
        monkeypatch.setattr(sender, "_SETTLED_MS", 0)
        return started[-1]

    yield begin
    for each in started:
        each.process.kill()
        each.process.wait()
        each._out.close()


@pytest.fixture
def store_url(empty_valkey: str) -> str:
    """One kind of store is enough here."""
    return empty_valkey


def points(request: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Data points by metric."""
    return {
        each["name"]: next(each[kind]["dataPoints"] for kind in ("gauge", "sum", "histogram") if kind in each)
        for resource in request["body"]["resourceMetrics"]
        for scope in resource["scopeMetrics"]
        for each in scope["metrics"]
    }


def labels(point: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in point.get("attributes", [])}


async def test_a_collector_has_the_numbers_of_metrics_and_each_event_once(
    start: Start, serve: Any, make_agent: Any
) -> None:
    receiver = start()
    client = await serve(otlp=True)
    agent = make_agent(client)
    await agent.register()
    await agent.send(range(1, 11))
    request = await receiver.next("/v1/metrics")
    while not any(each["asDouble"] == 10 for each in points(request).get("steadynorm_run_step", [])):  # an early turn
        request = await receiver.next("/v1/metrics")
    assert request["key"] == "secret"
    sent = points(request)
    text = (await client.get("http://test/metrics")).text
    families = {each.name: each for each in text_string_to_metric_families(text)}
    for name in ("steadynorm_run_step", "steadynorm_loss", "steadynorm_gamma2", "steadynorm_raw_norm"):
        (point,), (sample,) = sent[name], families[name].samples
        assert (point["asDouble"], labels(point)) == (sample.value, sample.labels)
    for name in ("steadynorm_spikes", "steadynorm_agent_dropped", "steadynorm_server_ingest_steps"):
        assert sent[f"{name}_total"][0]["asDouble"] == families[name].samples[0].value
    histogram = sent["steadynorm_server_store_seconds"][0]
    assert sum(map(int, histogram["bucketCounts"])) == int(histogram["count"]) > 0

    logs: list[dict[str, Any]] = []
    while len(logs) < 2:
        (resource,) = (await receiver.next("/v1/logs"))["body"]["resourceLogs"]
        logs += resource["scopeLogs"][0]["logRecords"]
        if len(logs) == 1:
            await client.post(f"{agent.run}/finish", content=b'{"state": "finished", "reason": "done"}')
    begun, ended = logs
    assert (begun["eventName"], ended["eventName"]) == ("steadynorm.started", "steadynorm.ended")
    assert labels(begun)["steadynorm.run_id"] == "tiny-1"
    assert "done" in ended["body"]["stringValue"]
    listed = {each["id"]: each["message"] for each in (await client.get(f"{agent.run}/events")).json()["events"]}
    assert {labels(each)["steadynorm.event_id"]: each["body"]["stringValue"] for each in logs} == listed


async def test_a_receiver_that_hangs_holds_one_thread_and_no_request(
    start: Start, serve: Any, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(sender, "_WITHIN_S", 0.05)
    receiver = start("hang")
    client = await serve(otlp=True)
    agent = make_agent(client)
    await agent.register()
    await receiver.next("/v1/metrics")
    slowest = 0.0
    for step in range(1, 30):
        began = time.monotonic()
        await agent.send([step])
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.02)
    assert slowest < 2.0  # a request to the receiver takes 10 s
    assert sum(each.name == "otlp-metrics" for each in threading.enumerate()) == 1
    text = (await client.get("http://test/metrics")).text
    assert 'steadynorm_otlp_exports_total{outcome="failed",signal="metrics"}' in text


async def test_events_that_are_not_taken_hold_up_no_metrics(
    start: Start, serve: Any, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "600")
    receiver = start("hang", "/v1/logs")
    client = await serve(otlp=True)
    agent = make_agent(client)
    await agent.register()
    await receiver.next("/v1/logs")
    for step in range(1, 4):
        await agent.send([step])
        request = await receiver.next("/v1/metrics")
        while not any(each["asDouble"] == step for each in points(request).get("steadynorm_run_step", [])):
            request = await receiver.next("/v1/metrics")


async def test_no_count_leaps_or_begins_anew_with_the_server_that_sends_it(
    start: Start, serve: Any, make_agent: Any
) -> None:
    receiver = start()
    clients = [await serve(otlp=True), await serve(otlp=True)]
    agent = make_agent(clients[0])
    await agent.register()
    await agent.send(range(1, 11))  # one of them has counted these steps, and the other none
    servers: set[str] = set()
    seen: dict[tuple[str, str, str], tuple[str, float]] = {}
    for _ in range(60):
        for resource in (await receiver.next("/v1/metrics"))["body"]["resourceMetrics"]:
            about = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
            instance = about.get("service.instance.id", "")
            for each in resource["scopeMetrics"][0]["metrics"]:
                (kind,) = {"sum", "gauge", "histogram"} & each.keys()
                assert {"run_id" in labels(point) for point in each[kind]["dataPoints"]} == {not instance}, each["name"]
                for point in each.get("sum", {}).get("dataPoints", ()):
                    key = (instance, each["name"], json.dumps(labels(point), sort_keys=True))
                    began, value = point["startTimeUnixNano"], point["asDouble"]
                    assert seen.get(key, (began, 0.0))[0] == began, key
                    assert seen.get(key, (began, 0.0))[1] <= value, key
                    seen[key] = (began, value)
            servers |= {instance} - {""}
        if len(servers) == 2:
            return
    raise AssertionError("only one of two servers tells of itself")


async def test_a_batch_of_more_events_than_are_sent_at_once_holds_up_none(
    start: Start, serve: Any, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = start()
    agent = make_agent(await serve(otlp=True))
    await agent.register()
    rejected = [agent.applied(revision, 1, "rejected", "no") for revision in range(1, 251)]
    await agent.send([1], applied=rejected)
    await agent.client.post(f"{agent.run}/finish", content=b'{"state": "finished"}')
    sent: list[str] = []
    for _ in range(20):
        (resource,) = (await receiver.next("/v1/logs"))["body"]["resourceLogs"]
        sent += [each["eventName"] for each in resource["scopeLogs"][0]["logRecords"]]
        if "steadynorm.ended" in sent:
            break
    assert "steadynorm.ended" in sent
    assert sent.count("steadynorm.rejected") == 250


@pytest.mark.parametrize("ahead_s", [30.0, -30.0])
async def test_a_server_whose_clock_differs_from_that_of_redis_passes_no_event_by(
    start: Start, serve: Any, make_agent: Any, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    receiver, now = start(), time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead_s)
    agent = make_agent(await serve(otlp=True))
    await agent.register()
    for step, kinds in ((1, ["steadynorm.started"]), (2, ["steadynorm.spike"])):
        if step > 1:
            await agent.send([step], spikes=1, spike_ratio_max=9.0)
        (resource,) = (await receiver.next("/v1/logs"))["body"]["resourceLogs"]
        assert [each["eventName"] for each in resource["scopeLogs"][0]["logRecords"]] == kinds
