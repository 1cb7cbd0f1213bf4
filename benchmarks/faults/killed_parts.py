"""Parts are killed under load: the only server, one of two, a primary of a Redis Cluster."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from fault_stack import AGENT, Outcome, compare, count_errors, folder, server
from faulty_network import FaultyNetwork
from ingest_agents import allow_many_files
from steady_agents import Fleet
from tests.support.redis_cluster import Cluster, add_replica, cluster_of_three

from steadynorm_server.runtime.embedded_redis import embedded_redis_server

__all__ = ["cluster_primary", "reconnect", "two_servers"]


async def reconnect(agents: int, seconds: float) -> Outcome:
    """The only server is killed, with 1,000 agents that send every 10 s, and comes back a while later: all return."""
    allow_many_files()
    outcome, third = Outcome(), seconds / 3
    with folder() as home, embedded_redis_server(home / "redis") as url:
        with server(home / "server", url) as first:
            fleet, port = Fleet(agents, first.place, AGENT, every_s=10.0), first.place[1]
            fleet.start()
            began = time.monotonic()
            await asyncio.sleep(third)
            first.kill()
        killed = time.monotonic()
        await asyncio.sleep(third)
        starting = time.monotonic()
        with server(home / "server", url, port=port) as second:
            back = time.monotonic()
            await asyncio.sleep(third)
            unfinished = await fleet.end()
            outcome.figures = {
                "agents": agents, "seconds_away": round(back - killed, 1), "start_s": round(back - starting, 2),
                "p99_ms_before": fleet.p99_ms(began + 15, killed - 1), "all_back_after_s": fleet.all_heard_after(back),
                "errors": fleet.errors(),
            }  # fmt: skip
            outcome.require(not unfinished, f"{len(unfinished)} agents did not come to their end")
            compare(outcome, fleet, second.client())
            count_errors(outcome, [second])
    return outcome


async def two_servers(agents: int, seconds: float) -> Outcome:
    """Of two servers over one Redis behind a TCP balancer one is killed; agents go on with the other."""
    outcome, half = Outcome(), seconds / 2
    with (
        folder() as home,
        embedded_redis_server(home / "redis") as url,
        server(home / "one", url) as one,
        server(home / "two", url) as two,
    ):
        async with FaultyNetwork([one.place, two.place]) as balancer:
            fleet = Fleet(agents, ("127.0.0.1", balancer.port), AGENT)
            fleet.start()
            began = time.monotonic()
            await asyncio.sleep(half)
            one.kill()
            killed = time.monotonic()
            await asyncio.sleep(half)
            unfinished = await fleet.end()
        outcome.figures = {
            "agents": agents, "p99_ms_before": fleet.p99_ms(began + 5, killed - 1),
            "p99_ms_after": fleet.p99_ms(killed + 5, time.monotonic()), "errors": fleet.errors(),
            "all_heard_after_s": fleet.all_heard_after(killed),
        }  # fmt: skip
        outcome.require(not unfinished, f"{unfinished} did not come to their end")
        compare(outcome, fleet, two.client())
        count_errors(outcome, [two])
    return outcome


@contextlib.contextmanager
def _replicated(home: Path) -> Iterator[tuple[Cluster, int]]:
    """A cluster of three whose first primary has a replica, and that primary's port."""
    home.mkdir()
    with cluster_of_three(home) as cluster, add_replica(cluster, cluster.ports[0]):
        yield cluster, cluster.ports[0]


async def cluster_primary(agents: int, seconds: float) -> Outcome:
    """One of three primaries is killed; its replica takes over; runs on the others are not disturbed."""
    outcome, half = Outcome(), seconds / 2
    with folder() as home, _replicated(home / "cluster") as (cluster, victim), server(home, cluster.url) as running:
        fleet = Fleet(agents, running.place, AGENT)
        fleet.start()
        began = time.monotonic()
        await asyncio.sleep(half)
        concerned = [agent for agent in fleet.agents if cluster.holder(f"{{{agent.run_id}}}") == victim]
        cluster.kill(victim)
        killed = time.monotonic()
        await asyncio.sleep(half)
        unfinished = await fleet.end()
        others = Fleet(0, running.place, AGENT)
        others.agents = [agent for agent in fleet.agents if agent not in concerned]
        own = Fleet(0, running.place, AGENT)
        own.agents = concerned
        outcome.figures = {
            "agents": agents, "on_the_killed_primary": len(concerned), "errors_there": own.errors(),
            "errors_elsewhere": others.errors(), "elsewhere_p99_ms_before": others.p99_ms(began + 2, killed),
            "elsewhere_p99_ms_after": others.p99_ms(killed, time.monotonic()),
            "writes_there_again_after_s": own.all_heard_after(killed),
        }  # fmt: skip
        outcome.require(not unfinished, f"{unfinished} did not come to their end")
        outcome.require(not others.errors(), f"runs elsewhere met errors: {others.errors()}")
        compare(outcome, fleet, running.client())
        count_errors(outcome, [running])
    return outcome
