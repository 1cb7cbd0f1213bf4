"""Two server processes over one store answer alike: nothing of a run is in a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

TOKEN = "a-token-of-these-tests"
PAUSE_S = 0.2
"""Between two looks: each is a line of the server's log, and a process whose pipe is full stands still."""


@dataclass
class Running:
    """A server process."""

    address: str
    process: subprocess.Popen[str]

    def end(self) -> list[str]:
        """Stop it; gives the lines that it still said."""
        self.process.terminate()
        return self.process.communicate(timeout=30)[1].splitlines()


def start(data: Path, repository: str) -> Running:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    own = {
        "REDIS_URL": repository,
        "STEADYNORM_HOME": str(data),
        "STEADYNORM_OPERATOR_TOKEN": TOKEN,
        "STEADYNORM_LOG": "json",
        "STEADYNORM_LOG_LEVEL": "info", "STEADYNORM_AGENT_TOKEN": TOKEN + "-agent",
    }  # fmt: skip
    command = [sys.executable, "-m", "steadynorm_cli", "server", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=inherited | own)
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("steadynorm server at "), first
    return Running(first.split()[-1], process)


@pytest.fixture
def two(empty_valkey: str, tmp_path: Path) -> Iterator[tuple[Running, Running]]:
    """Two processes over one store."""
    with contextlib.ExitStack() as stack:
        running = [start(tmp_path / name, empty_valkey) for name in ("one", "two")]
        for each in running:
            stack.callback(each.end)
        yield running[0], running[1]


@pytest.fixture
async def clients(two: tuple[Running, Running]) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """agent_1, operator_1, agent_2, operator_2: each role's client of each process."""
    async with contextlib.AsyncExitStack() as stack:
        made = {}
        for at, server in enumerate(two, 1):
            for role, token in (("agent", TOKEN + "-agent"), ("operator", TOKEN)):
                client = httpx.AsyncClient(
                    base_url=server.address + "/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=40
                )
                made[f"{role}_{at}"] = await stack.enter_async_context(client)
        yield made


async def test_two_processes_answer_alike(
    clients: dict[str, httpx.AsyncClient], two: tuple[Running, Running], make_agent: Any
) -> None:
    agent = make_agent(clients["agent_1"], run_id="shared-1", name="shared")
    await agent.register()
    for sequence in range(1, 7):  # each batch to the other process
        agent.client = clients[f"agent_{sequence % 2 + 1}"]
        steps = range(sequence * 10, sequence * 10 + 10)
        row = agent.rows([sequence * 10], [[[1, 1, 1, 1, 4], [1, 1, 1, 1, 7]]])
        assert (await agent.send(steps, loss=float(sequence), rows=row))["acknowledged"] == sequence
    repeated = agent.batch(6, range(60, 70))
    for at in (1, 2):
        agent.client = clients[f"agent_{at}"]
        assert (await agent.post(repeated)).json()["acknowledged"] == 6

    waiting = asyncio.create_task(clients["agent_1"].get(f"{agent.run}/settings?after_revision=0&wait=30"))
    await _until_waiting(clients["operator_1"], two[0])
    change = {"settings": {"gamma2": 0.5}, "reason": "across"}
    changed = await clients["operator_2"].patch(f"{agent.run}/settings", json=change, headers={"If-Match": '"0"'})
    assert changed.status_code == 200
    answer = await asyncio.wait_for(waiting, 5)  # far sooner than it reads again by itself
    assert (answer.json()["revision"], answer.json()["settings"]["gamma2"]) == (1, 0.5)
    lost = await clients["operator_1"].patch(f"{agent.run}/settings", json=change, headers={"If-Match": '"0"'})
    assert lost.status_code == 412

    for path in ("", "/series", "/series?names=raw_norm/embed.weight", "/parameters", "/events", "/audit", "/settings"):
        responses = [await clients[f"operator_{at}"].get(agent.run + path) for at in (1, 2)]
        assert responses[0].status_code == 200
        assert responses[0].content == responses[1].content
    of_runs: list[list[str]] = [[], ["not scraped yet"]]
    deadline = time.monotonic() + 20
    while of_runs[0] != of_runs[1]:  # a scrape may be a second old
        assert time.monotonic() < deadline, set(of_runs[0]) ^ set(of_runs[1])
        await asyncio.sleep(PAUSE_S)
        scrapes = [(await clients[f"operator_{at}"].get(two[at - 1].address + "/metrics")).text for at in (1, 2)]
        of_runs = [[line for line in text.splitlines() if 'run_id="shared-1"' in line] for text in scrapes]
    assert len(of_runs[0]) > 15
    assert (await clients["operator_1"].delete(agent.run)).status_code == 204
    assert (await clients["operator_2"].get(agent.run)).status_code == 404

    said = [json.loads(line) for line in two[1].end() if line.startswith("{")]
    patched = [line for line in said if line.get("method") == "PATCH"]
    assert [(line["status"], line["request_id"]) for line in patched] == [(200, changed.headers["x-request-id"])]


async def _until_waiting(client: httpx.AsyncClient, server: Running) -> None:
    async with asyncio.timeout(20):
        while "waiting_requests 1.0" not in (await client.get(server.address + "/metrics")).text:  # noqa: ASYNC110 # nothing tells of it
            await asyncio.sleep(PAUSE_S)
