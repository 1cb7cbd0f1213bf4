"""A killed server has lost nothing that it acknowledged, and what it had to tell is told by the next."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import msgspec
import pytest
from tests.support.webhooks import is_genuine

from steadynorm_cli.commands.webhook_test import webhook_test
from steadynorm_cli.errors import CommandError
from steadynorm_contract.webhooks import WebhookMessage

TOKEN = "a-token-of-these-tests"
SECRET = "a-secret-of-these-tests"


class Receiver(ThreadingHTTPServer):
    """A webhook's receiver. `answers`: what it says to the next requests, then 200."""

    def __init__(self) -> None:
        self.posts: Queue[WebhookMessage] = Queue()
        self.responses: list[int] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def next(self) -> WebhookMessage:
        """The next message, whose signature was good."""
        return self.posts.get(timeout=120)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert is_genuine(dict(self.headers), body, SECRET.encode())
        self.server.posts.put(msgspec.json.decode(body, type=WebhookMessage))
        self.send_response(self.server.responses.pop(0) if self.server.responses else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nobody wants to read it."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A receiver in a thread."""
    with Receiver() as server:
        threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        yield server
        server.shutdown()


SERVER = """
from functools import partial
from steadynorm_cli.main import main
from steadynorm_server import app
from steadynorm_server.webhooks.dispatcher import DispatchIntervals
app.WebhookDispatcher = partial(app.WebhookDispatcher, intervals=DispatchIntervals(sweep_s=1.0))
main()
"""
"""`steadynorm`, whose servers look after a second for what a process before them left, and not after fifteen."""


@dataclass
class Servers:
    """Server processes over one store."""

    folder: Path
    environment: dict[str, str]
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def start(self) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
        """One more; gives an agent's and an operator's client of it."""
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "server", "--port", "0"], stderr=subprocess.PIPE, text=True,
            env={**self.environment, "STEADYNORM_HOME": str(self.folder / str(len(self.running)))},
        )  # fmt: skip
        self.running.append(process)
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("steadynorm server at "), first
        agent, operator = (
            httpx.AsyncClient(
                base_url=first.split()[-1] + "/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=20
            )
            for token in (TOKEN + "-agent", TOKEN)
        )
        self.clients += [agent, operator]
        return agent, operator

    def kill(self) -> None:
        """kill -9 the first one that is running."""
        process = self.running.pop(0)
        process.kill()
        process.communicate(timeout=20)


@pytest.fixture
async def servers(tmp_path: Path, empty_valkey: str, receiver: Receiver) -> AsyncIterator[Servers]:
    """None runs yet. They tell the receiver of what happens."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "webhooks.toml").write_text(
        f'[[webhook]]\nname = "on-call"\nurl = "http://127.0.0.1:{receiver.server_port}/"\n'
        f'secret_file = "{tmp_path / "secret"}"\ninterval_s = 1\nkinds = ["nonfinite"]\n'
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
    own = {
        "REDIS_URL": empty_valkey, "STEADYNORM_OPERATOR_TOKEN": TOKEN, "STEADYNORM_AGENT_TOKEN": TOKEN + "-agent",
        "STEADYNORM_WEBHOOKS_FILE": str(tmp_path / "webhooks.toml"),
    }  # fmt: skip
    made = Servers(tmp_path, inherited | own)
    try:
        yield made
    finally:
        for client in made.clients:
            await client.aclose()
        for process in made.running:
            process.terminate()
            process.communicate(timeout=30)


async def test_of_two_processes_each_event_is_told_once_also_if_the_one_that_stored_it_is_killed(
    servers: Servers, make_agent: Any, receiver: Receiver
) -> None:
    first, operator = servers.start()
    agent = make_agent(first, run_id="killed-1", name="killed")
    other, _ = servers.start()
    await agent.register()
    await agent.send([10], nonfinite=1)
    message = await asyncio.to_thread(receiver.next)
    assert [event.step for event in message.events] == [10]
    noted = 'steadynorm_webhook_oldest_undelivered_seconds{webhook="on-call"} 0.0'
    async with asyncio.timeout(120):
        # Killed between the receiver's answer and its note of it, a process leaves a message that comes again.
        scraped = str(operator.base_url.copy_with(path="/metrics"))
        while noted not in (await operator.get(scraped)).text:  # noqa: ASYNC110 # a metric tells of no change
            await asyncio.sleep(0.02)

    await agent.send([20], nonfinite=1)
    servers.kill()  # before it looked whether there is something to tell
    message = await asyncio.to_thread(receiver.next)
    assert [event.step for event in message.events] == [20]

    agent.client = other
    await agent.send([30], nonfinite=1)
    message = await asyncio.to_thread(receiver.next)
    assert [event.step for event in message.events] == [30]  # and none came twice in between


@pytest.mark.parametrize("repository", ["of one's own", "embedded"])
async def test_what_a_killed_server_acknowledged_is_there(servers: Servers, make_agent: Any, repository: str) -> None:
    if repository == "embedded":  # it dies with its server
        del servers.environment["REDIS_URL"]
    clients = servers.start()
    agent, operator = (
        make_agent(each, run_id=f"acknowledged-{len(repository)}", name="acknowledged") for each in clients
    )
    await agent.register()

    async def feed() -> None:
        with contextlib.suppress(httpx.HTTPError):
            while True:
                await agent.send(range(10 * agent.sequence, 10 * agent.sequence + 10))

    feeding = asyncio.create_task(feed())
    revision = 0
    while agent.sequence < 10:  # in the midst of its batches
        changed = await operator.change(revision, {"gamma2": revision % 7 / 10}, reason=f"reason {revision}")
        revision = changed.json()["revision"]
    servers.kill()
    await feeding
    acknowledged = agent.sequence

    agent.client, operator.client = servers.start()
    run = await operator.get()
    assert run["desired"]["revision"] == revision > 0
    assert run["desired"]["settings"]["gamma2"] == (revision - 1) % 7 / 10
    reasons = [entry["reason"] for entry in (await operator.get("/audit"))["entries"]]
    assert reasons == [f"reason {at}" for at in range(revision)][::-1]
    stored = (await agent.register())["acknowledged"]
    assert stored in (acknowledged, acknowledged + 1)  # the last one may be stored whose answer was lost
    assert run["counters"]["steps"] == 10 * stored
    await agent.send(range(10 * stored, 10 * stored + 10))
    assert (await operator.get())["counters"]["steps"] == 10 * stored + 10


async def test_webhook_test_tells_who_takes_a_message_and_who_does_not(
    servers: Servers, receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "webhooks.toml"
    file.write_text(file.read_text() + file.read_text().replace("on-call", "another"))
    receiver.responses += [200, 403]
    command = [sys.executable, "-m", "steadynorm_cli", "webhook-test"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=servers.environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "ok    on-call  200\nfail  another  answered 403\n"
    for _ in range(2):
        assert receiver.next().text == "webhook-test at step 0: this is a test of the webhook; nothing happened."
    with pytest.raises(CommandError, match="holds no webhook nobody"):
        webhook_test("nobody", file)
