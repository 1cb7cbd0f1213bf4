"""Fixtures over a Redis Cluster, in place of the one Redis of the other folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.support.redis_cluster import Cluster, cluster_of_three

from steadynorm_server.redis.keys import RunKeys


@pytest.fixture(scope="session")
def start_cluster() -> Callable[[Path], AbstractContextManager[Cluster]]:
    """start_cluster(folder): a further cluster for as long as the block runs."""
    return cluster_of_three


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that the tests of a file share."""
    with cluster_of_three(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def store_url(cluster: Cluster) -> str:
    """Instead of the one Redis of the other files: serve, api, agent and store go over the emptied cluster."""
    for port in cluster.ports:
        with cluster.node(port) as node:
            node.execute_command("FLUSHALL", "SYNC")
    return cluster.url


@pytest.fixture
async def agents(api: Any, make_agent: Any, cluster: Cluster) -> list[Any]:
    """Nine registered agents, with runs on each of the masters."""
    made = [make_agent(api, run_id=f"tiny-{at}", name=f"tiny-{at}") for at in range(9)]
    for each in made:
        await each.register()
    assert {cluster.holder(RunKeys(each.registration.run_id).run) for each in made} == set(cluster.ports)
    return made
