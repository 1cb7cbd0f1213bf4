"""A scrape of many runs reads their parameters' names together, however many models there are."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from steadynorm_contract.telemetry import Parameter


@pytest.mark.usefixtures("without_sweeper")
async def test_a_scrape_of_many_models_takes_few_round_trips_and_names_each_parameter_right(
    api: Any, make_agent: Any
) -> None:
    repository, many = api.app.state.repository, 70
    for at in range(many):
        parameters = [Parameter(f"model{at}.{name}", (2, 2), "float32") for name in ("a", "b")]
        agent = make_agent(api, run_id=f"run-{at}", instance=str(at), parameters=parameters)
        await agent.register()
        await agent.send([1], rows=agent.rows([1], [[[1] * 5, [1, 1, 1, 1, 2 + at]]]))
    pipelines, single = [], []
    get, get_all = repository.redis.get, repository.redis.get_all

    async def one(key: str) -> Any:
        single.append(key)
        return await get(key)

    async def several(keys: list[str]) -> Any:
        pipelines.append(len(keys))
        return await get_all(keys)

    repository.redis.get, repository.redis.get_all = one, several
    text = (await api.get("http://test/metrics")).text
    told: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        if family.name == "steadynorm_parameter_spike_ratio":
            told |= {(each.labels["run_id"], each.labels["parameter"]): each.value for each in family.samples}
    wanted = {(f"run-{at}", f"model{at}.b"): 2.0 + at for at in range(many)}
    assert wanted == {key: value for key, value in told.items() if key[1].endswith(".b")}
    assert (single, pipelines) == ([], [64, 6])


@pytest.mark.usefixtures("without_sweeper")
async def test_runs_of_one_model_share_what_was_read_once(api: Any, make_agent: Any, store_url: str) -> None:
    for at in range(3):
        agent = make_agent(api, run_id=f"run-{at}", instance=str(at))
        await agent.register()
        await agent.send([1], rows=agent.rows([1], [[[1] * 5, [1, 1, 1, 1, 2]]]))
    await api.get("http://test/metrics")
    with redis.Redis.from_url(store_url, protocol=2) as client:
        client.config_resetstat()
        assert 'parameter="head.weight"' in (await api.get("http://test/metrics")).text
        assert "cmdstat_get" not in client.info("commandstats")
