"""/metrics says what Redis knows, in names that Prometheus likes."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from redis.exceptions import NoPermissionError, ReadOnlyError
from tests.support.redis_server import port_of, redis_server
from tests.support.server import all_runs

from steadynorm_contract.settings import Settings
from steadynorm_contract.telemetry import (
    AgentCounters,
    AgentNote,
    AppliedReport,
    NoteKind,
    RecoveryStatus,
    RevisionOutcome,
)
from steadynorm_server.metrics.store import StoreMetrics
from steadynorm_server.redis.client import Memory
from steadynorm_server.retention.capacity import Capacity
from steadynorm_server.retention.sweeper import measure

DESIGNED = {
    "steadynorm_run_info",
    "steadynorm_run_step",
    "steadynorm_run_last_seen_timestamp_seconds",
    "steadynorm_run_started_timestamp_seconds",
    "steadynorm_loss",
    "steadynorm_learning_rate",
    "steadynorm_raw_norm",
    "steadynorm_stabilized_norm",
    "steadynorm_target_min",
    "steadynorm_spike_ratio_max",
    "steadynorm_spikes_total",
    "steadynorm_nonfinite_total",
    "steadynorm_tensors_faded_total",
    "steadynorm_gamma1",
    "steadynorm_gamma2",
    "steadynorm_mode",
    "steadynorm_settings_desired_revision",
    "steadynorm_settings_applied_revision",
    "steadynorm_agent_dropped_total",
    "steadynorm_agent_errors_total",
    "steadynorm_rank_mismatches_total",
    "steadynorm_rollbacks_total",
    "steadynorm_recovery_budget_left",
    "steadynorm_snapshot_age_steps",
    "steadynorm_unrecoverable",
    "steadynorm_parameter_spike_ratio",
}
RUN = 'run="tiny",run_id="tiny-1"'


async def scrape(client: Any) -> str:
    answer = await client.get("http://test/metrics", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text: str = answer.text
    return text


async def busy(agent: Any) -> None:
    row = [[1, 1, 1, 1, 4], [1, 1, 1, 1, 7]]
    await agent.send(
        range(1, 11),
        loss=1.5,
        spikes=2,
        nonfinite=1,
        faded=3,
        target_min=0.75,
        rows=agent.rows([10], [row]),
        counters=AgentCounters(dropped=3),
        recovery=RecoveryStatus(snapshots=[4, 8], budget_left=2, every_steps=4),
    )


async def test_every_designed_series_is_there_with_its_value(agent: Any) -> None:
    await busy(agent)
    await agent.change(0, {"gamma2": 0.5})
    text = await scrape(agent.client)
    assert set(re.findall(r"^(steadynorm_\w+)\{", text, re.MULTILINE)) >= DESIGNED
    for line in (
        f"steadynorm_run_step{{{RUN}}} 10.0",
        f"steadynorm_loss{{{RUN}}} 1.5",
        f"steadynorm_target_min{{{RUN}}} 0.75",
        f"steadynorm_spikes_total{{{RUN}}} 20.0",
        f"steadynorm_nonfinite_total{{{RUN}}} 10.0",
        f"steadynorm_tensors_faded_total{{{RUN}}} 30.0",
        f"steadynorm_agent_dropped_total{{{RUN}}} 3.0",
        f"steadynorm_gamma2{{{RUN}}} 0.999",
        f"steadynorm_settings_desired_revision{{{RUN}}} 1.0",
        f"steadynorm_settings_applied_revision{{{RUN}}} 0.0",
        f'steadynorm_mode{{{RUN},steadynorm_mode="stabilize"}} 1.0',
        f'steadynorm_mode{{{RUN},steadynorm_mode="observe"}} 0.0',
        f"steadynorm_parameters_omitted{{{RUN}}} 0.0",
        "steadynorm_server_ingest_steps_total 10.0",
        "steadynorm_server_ingest_rows_total 2.0",
    ):
        assert line in text.splitlines()
    assert re.search(
        r'steadynorm_server_request_seconds_count\{method="POST",route="[^"]*/telemetry",status="200"\} 1', text
    )
    assert re.search(r"steadynorm_server_store_seconds_count [1-9]", text)


async def test_the_dashboards_address_is_told_for_links_where_it_is_known(api: Any, serve: Any) -> None:
    assert "steadynorm_server_dashboard_info" not in await scrape(api)
    text = await scrape(await serve(dashboard_url="https://steadynorm.example/"))
    assert 'steadynorm_server_dashboard_info{dashboard_url="https://steadynorm.example"} 1.0' in text.splitlines()


async def test_only_the_highest_spike_ratios_have_series(agent: Any, serve: Any) -> None:
    await busy(agent)
    text = await scrape(await serve(top_parameters=1))
    assert re.findall(r"^steadynorm_parameter_spike_ratio\{(.*)\} (.*)$", text, re.MULTILINE) == [
        (f'parameter="head.weight",{RUN}', "7.0")
    ]
    assert f"steadynorm_parameters_omitted{{{RUN}}} 1.0" in text
    text = await scrape(await serve(top_parameters=0))
    assert "steadynorm_parameter_spike_ratio{" not in text
    assert f"steadynorm_parameters_omitted{{{RUN}}} 2.0" in text


async def test_a_run_that_ended_or_was_long_gone_disappears(agent: Any, clock: Any) -> None:
    await busy(agent)
    clock.now += 3600
    assert RUN in await scrape(agent.client)
    clock.now += 86_400
    assert RUN not in await scrape(agent.client)
    await agent.send([11])
    assert RUN in await scrape(agent.client)
    await agent.client.post(f"{agent.run}/finish", json={"state": "finished"})
    assert RUN not in await scrape(agent.client)


async def test_a_run_that_gave_up_is_told_until_somebody_changes_it_and_for_an_hour_after_its_end(
    agent: Any, clock: Any
) -> None:
    told = f"steadynorm_unrecoverable{{{RUN}}} "

    async def gives_up(step: int, at: float, **settings: bool) -> None:
        spent = AgentNote(NoteKind.UNRECOVERABLE, step, at, 0, "unrecoverable: 3 rollbacks did not help.")
        now = msgspec.structs.replace(Settings(), **settings)
        report = AppliedReport(revision, step + 1, RevisionOutcome.APPLIED, now, at + 1, "unrecoverable")
        await agent.send([step], notes=[spent], applied=[report])

    revision = 0
    await agent.change(0, {"paused": True})
    paused = AppliedReport(1, 2, RevisionOutcome.APPLIED, Settings(paused=True), 5.0, "")
    await agent.send([1], applied=[paused], recovery=RecoveryStatus(budget_left=0))
    assert told + "0.0" in await scrape(agent.client)  # by an operator
    revision = 1
    await gives_up(2, 10.0, paused=True)
    assert told + "1.0" in await scrape(agent.client)
    await agent.send([3])
    assert told + "1.0" in await scrape(agent.client)
    await agent.change(1, {"paused": False})
    await agent.send([4], applied=[AppliedReport(2, 4, RevisionOutcome.APPLIED, Settings(), 20.0, "")])
    assert told + "0.0" in await scrape(agent.client)
    revision = 2
    await gives_up(5, 30.0, stop=True)
    await agent.client.post(f"{agent.run}/finish", json={"state": "stopped"})
    text = await scrape(agent.client)
    assert [line for line in text.splitlines() if RUN in line] == [told + "1.0"]
    clock.now += 3700
    assert RUN not in await scrape(agent.client)


async def test_labels_are_of_bounded_number(agent: Any) -> None:
    for path in ("/nothing", "/runs/unknown", "/runs/unknown2", "/runs/../etc"):
        await agent.client.get(path)
    text = await scrape(agent.client)
    assert "unknown" not in text
    assert "nothing" not in text


async def test_names_and_types_pass_promtool(agent: Any) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "this test needs promtool: apt-get install prometheus"
    await busy(agent)
    text = await scrape(agent.client)
    checked = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ['a"b\\c', "new\nline", "日本"])
async def test_any_name_is_a_good_label(api: Any, make_agent: Any, name: str) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    await make_agent(api, name=name).register()
    families = {family.name: family for family in text_string_to_metric_families(await scrape(api))}
    assert families["steadynorm_run_step"].samples[0].labels["run"] == name


@pytest.mark.usefixtures("without_sweeper")
async def test_a_scrape_asks_the_store_as_often_for_many_runs_as_for_one(api: Any, make_agent: Any) -> None:
    async def round_trips() -> int:
        counts = [
            int(float(found))
            for found in re.findall(r"store_seconds_count (\S+)", await scrape(api) + await scrape(api))
        ]
        return counts[1] - counts[0]

    await busy(await _registered(make_agent(api, run_id="tiny-0")))
    few = await round_trips()
    for at in range(1, 30):
        await busy(await _registered(make_agent(api, run_id=f"tiny-{at}")))
    assert await round_trips() == few


async def _registered(agent: Any) -> Any:
    await agent.register()
    return agent


async def test_the_server_tells_of_itself(agent: Any, serve: Any) -> None:
    await busy(agent)
    client = await serve(top_parameters=1)
    repository = client.app.state.repository
    with repository.changes.subscribe("tiny-1"), repository.changes.subscribe("tiny-2"):
        text = await scrape(client)
    assert "steadynorm_server_waiting_requests 2.0" in text
    assert "steadynorm_server_omitted_series 1.0" in text
    assert re.search(r'steadynorm_server_build_info\{python="3[^"]*",version="[^"]+"\} 1.0', text)
    started = re.search(r"^process_start_time_seconds (\S+)$", text, re.MULTILINE)
    assert started
    assert 0 <= time.time() - float(started[1]) < 86_400
    assert "steadynorm_server_waiting_requests 0.0" in await scrape(client)


async def test_store_errors_are_counted_by_kind(agent: Any) -> None:
    metrics = agent.client.app.state.metrics
    with pytest.raises(ReadOnlyError), metrics.redis_round_trip():
        raise ReadOnlyError("away")
    assert 'steadynorm_server_store_errors_total{kind="ReadOnlyError"} 1.0' in await scrape(agent.client)


@pytest.mark.usefixtures("without_sweeper")
async def test_the_memory_of_redis_is_told_and_whether_it_evicts(serve: Any, make_agent: Any, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as store:
        store.config_set("maxmemory", 16 * 2**20)
        store.config_set("maxmemory-policy", "allkeys-lru")
        client = await serve(url=f"redis://127.0.0.1:{port_of(store)}")
        await make_agent(client).register()
        state = client.app.state
        state.metrics.store.set(await measure(state.repository, await all_runs(state.repository), state.limits))
        told = dict(re.findall(r"^steadynorm_store_(\w+) (\S+)$", await scrape(client), re.MULTILINE))
    assert told["evicts"] == "1.0"
    assert float(told["memory_max_bytes"]) == 16 * 2**20
    assert 2**19 < float(told["memory_bytes"]) < 16 * 2**20
    assert float(told["memory_ratio"]) == pytest.approx(float(told["memory_bytes"]) / 2**24)
    assert 2**25 < float(told["shortfall_bytes"]) < 2**26  # a run of up to 64 MiB


async def test_what_redis_does_not_tell_compares_to_nothing(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden() -> None:
        raise NoPermissionError("User steadynorm has no permissions to run the 'info' command")

    state = api.app.state
    monkeypatch.setattr(state.repository.redis, "memory", forbidden)
    assert await measure(state.repository, [], state.limits) is None
    fresh = StoreMetrics(registry := CollectorRegistry())
    fresh.set(None)
    assert b"steadynorm_store_evicts NaN" in generate_latest(registry)
    full = Capacity.of([Memory(2**30, 2**30, "allkeys-lru")], [], state.limits)
    fresh.set(full)
    assert b"steadynorm_store_evicts 1.0" in generate_latest(registry)
    fresh.set(None)  # the permission was taken back: an alert on what was then must end
    left = re.findall(rb"^steadynorm_store_\w+ (\S+)$", generate_latest(registry), re.MULTILINE)
    assert left == [b"NaN"] * 5


async def test_only_a_long_poll_is_left_out_of_the_times_of_requests(agent: Any) -> None:
    await agent.get("/settings", after_revision=0, wait=0.01)
    refused = await agent.client.get(f"{agent.run}/events", params={"wait": 1})
    assert refused.status_code == 422
    text = await scrape(agent.client)
    counted = re.findall(r'steadynorm_server_request_seconds_count\{method="GET",route="([^"]*)"', text)
    assert [route.rpartition("/")[2] for route in counted] == ["events"]


async def test_a_request_is_counted_under_its_route_as_the_openapi_document_has_it(agent: Any) -> None:
    await agent.send([1])
    await agent.get("/settings")
    assert (await agent.change(0, {"gamma2": 0.9})).status_code == 200
    await agent.client.get("/nowhere")
    await agent.client.get("http://test/healthz")
    text = await scrape(agent.client)
    routes = set(re.findall(r'steadynorm_server_request_seconds_count\{method="\w+",route="([^"]*)"', text))
    run = "/api/v1/runs/{run_id}"
    assert routes == {"/api/v1/runs", f"{run}/telemetry", f"{run}/settings", "/healthz", "none"}
    documented = (await agent.client.get("http://test/openapi.json")).json()["paths"]
    assert routes - {"none"} <= documented.keys()
