"""GET /runs/{run_id}/heatmap: one signal of every parameter over the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.support.server import FakeAgent


async def test_the_map_has_every_parameter_in_model_order_and_loses_no_spike(agent: FakeAgent) -> None:
    steps = list(range(200))
    values = [[[1.0, 1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0, 55.0 if step == 77 else 1.0]] for step in steps]
    await agent.send(steps, rows=agent.rows(steps, values))
    found = await agent.get("/heatmap", signal="spike_ratio", points=20)
    assert found["parameters"] == ["embed.weight", "head.weight"]
    assert len(found["step"]) <= 20
    assert sum(found["count"]) == 200
    assert set(found["extreme"][0]) == {1.0}
    (at,) = [at for at, value in enumerate(found["extreme"][1]) if value == 55.0]
    assert found["step"][at] <= 77 < found["step"][at + 1]


async def test_a_target_counts_by_its_smallest_value_and_a_norm_that_is_not_finite_is_null(agent: FakeAgent) -> None:
    values = [
        [[1.0, 0.5 if step == 2 else 2.0, 2.0, 1.0, 1.0], [float("nan"), 1.0, 1.0, 1.0, 0.0]] for step in range(4)
    ]
    await agent.send(range(4), rows=agent.rows(range(4), values))
    target = await agent.get("/heatmap", signal="target", points=1)
    assert target["extreme"][0] == [pytest.approx(0.25)]
    norms = await agent.get("/heatmap", signal="raw_norm")
    assert norms["extreme"][1] == [None] * 4


async def test_a_part_of_the_steps_is_read_step_by_step(agent: FakeAgent) -> None:
    steps = list(range(100))
    await agent.send(steps, rows=agent.rows(steps, [[[1.0 + step, 1, 1, 1, 1]] * 2 for step in steps]))
    found = await agent.get("/heatmap", **{"signal": "raw_norm", "from": 40, "to": 49, "points": 120})
    assert found["step"] == list(range(40, 50))
    assert found["extreme"][0] == [pytest.approx(1.0 + step) for step in range(40, 50)]


async def test_a_run_without_rows_has_an_empty_map(agent: FakeAgent) -> None:
    found = await agent.get("/heatmap")
    assert (found["step"], found["extreme"]) == ([], [[], []])


@pytest.mark.parametrize("query", [{"signal": "loss"}, {"from": 5, "to": 4}, {"points": 0}])
async def test_what_cannot_be_asked_is_told_by_its_rule(
    agent: FakeAgent, api: httpx.AsyncClient, query: dict[str, object]
) -> None:
    answer = await api.get("/runs/tiny-1/heatmap", params=query)  # type: ignore[arg-type]  # plain values
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in query
