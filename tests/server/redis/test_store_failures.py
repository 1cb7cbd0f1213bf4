"""A store that is away, read-only, full or hanging × every route: an answer or 503 in time, and never half a write."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import redis
from tests.support.server import sweep

from steadynorm_contract.codec import encode_batch, encode_json
from steadynorm_server.app import create_app
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.runtime.embedded_redis import embedded_redis_server

pytestmark = pytest.mark.usefixtures("impatient_with_stores")

API = "/api/v1"
RUN = API + "/runs/{run_id}"
WITHIN_S = 2.0

READS = {
    ("GET", API + "/runs"), ("GET", API + "/fleet"), ("GET", RUN), ("GET", RUN + "/settings"), ("GET", RUN + "/series"),
    ("GET", RUN + "/heatmap"), ("GET", RUN + "/parameters"), ("GET", RUN + "/events"), ("GET", RUN + "/audit"),
    ("GET", RUN + "/export"), ("GET", RUN + "/schedules"), ("GET", RUN + "/proposals"), ("GET", RUN + "/rules"),
    ("GET", RUN + "/retention"), ("GET", RUN + "/notes"), ("GET", RUN + "/configuration"), ("GET", "/metrics"),
}  # fmt: skip
DECISION = ("POST", RUN + "/proposals/{proposal_id}")
WRITES = {
    ("POST", API + "/runs"): b"",  # the registration of a new run
    ("POST", RUN + "/telemetry"): b"",  # the run's next batch
    ("POST", RUN + "/finish"): b'{"state": "finished"}',
    ("POST", RUN + "/proposals"): b'{"revision": 1, "settings": {"gamma2": 0.7}, "reason": "tried"}',
    DECISION: b'{"approve": false, "reason": "tried"}',
    ("PATCH", RUN + "/settings"): b'{"settings": {"gamma2": 0.5}, "reason": "tried"}',
    ("POST", API + "/settings/bulk"): b'{"select": {"name": "*"}, "settings": {"gamma2": 0.5}, "reason": "tried", '
    b'"dry_run": false, "revisions": {"tiny-1": 1, "tiny-2": 0}}',
    ("POST", RUN + "/schedules"): b'{"from_step": 1000, "settings": {"gamma2": 0.5}, "reason": "tried"}',
    ("DELETE", RUN + "/schedules/{schedule_id}"): b"",
    ("PUT", RUN + "/rules"): b'{"rules": []}',
    ("PUT", RUN + "/retention"): b'{"max_mib": 16}',
    ("POST", RUN + "/notes"): b'{"text": "new data"}',
    ("PATCH", RUN): b'{"name": "renamed"}',
    ("POST", RUN + "/restore"): b"{}",
    ("DELETE", RUN): b"",
    ("GET", "/readyz"): b"",  # it asks whether the store can write
}
REMOVAL = ("DELETE", RUN)
NO_STORE = {("GET", path) for path in ("/", "/docs", "/openapi.json", "/healthz", API + "/me")}


class Broken(NamedTuple):
    """How a store can fail."""

    name: str
    reads: int
    """What a read is answered then."""


AWAY, HANGING = Broken("away", 503), Broken("hanging", 503)
READ_ONLY, FULL = Broken("read-only", 200), Broken("full", 200)
STALE = Broken("without its primary", 503)  # a replica that says so, and answers nothing else
NO_REPLICAS = Broken("without enough replicas", 200)


class Patient:
    """A store of one's own that can be made to fail and to heal."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client: Any = redis.Redis.from_url(url, protocol=2)  # its own types allow str everywhere
        self._process = int(self._client.info("server")["process_id"])
        self._socket = Path(url.removeprefix("unix://"))

    def close(self) -> None:
        self._client.close()

    def content(self) -> dict[bytes, Any]:
        """All that it holds."""
        read: dict[bytes, Callable[[bytes], Any]] = {
            b"hash": self._client.hgetall,
            b"stream": self._client.xrange,
            b"string": self._client.get,
            b"zset": lambda key: self._client.zrange(key, 0, -1, withscores=True),
        }
        return {key: read[self._client.type(key)](key) for key in self._client.keys("*")}

    @contextmanager
    def failing(self, how: Broken) -> Iterator[None]:
        """Fails for as long as the block runs."""
        ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "away": self._away,
            "hanging": self._hanging,
            "read-only": self._demoted,
            "without its primary": self._stale,
            "full": lambda: self._set("maxmemory", 1, 0),
            "without enough replicas": lambda: self._set("min-replicas-to-write", 1, 0),
        }
        with ways[how.name]():
            yield

    @contextmanager
    def _told(self, first: tuple[object, ...], last: tuple[object, ...]) -> Iterator[None]:
        self._client.execute_command(*first)
        try:
            yield
        finally:
            self._client.execute_command(*last)

    def _demoted(self) -> AbstractContextManager[None]:
        return self._told(("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"))

    @contextmanager
    def _stale(self) -> Iterator[None]:
        with self._set("replica-serve-stale-data", "no", "yes"), self._demoted():
            yield

    def _set(self, name: str, value: object, normal: object) -> AbstractContextManager[None]:
        return self._told(("CONFIG", "SET", name, value), ("CONFIG", "SET", name, normal))

    @contextmanager
    def _away(self) -> Iterator[None]:
        hidden = self._socket.with_suffix(".hidden")
        self._socket.rename(hidden)  # nobody connects any more, and who is connected
        self._client.execute_command("CLIENT", "KILL", "SKIPME", "yes")  # is not
        try:
            yield
        finally:
            hidden.rename(self._socket)

    @contextmanager
    def _hanging(self) -> Iterator[None]:
        os.kill(self._process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process, signal.SIGCONT)


@pytest.fixture(scope="module")
def shared_patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    with embedded_redis_server(tmp_path_factory.mktemp("patient")) as url:
        made = Patient(url)
        yield made
        made.close()


@pytest.fixture
def patient(shared_patient: Patient) -> Patient:
    """An empty store that is well."""
    shared_patient._client.execute_command("FLUSHALL", "SYNC")
    return shared_patient


@pytest.fixture
def store_url(patient: Patient) -> str:
    """What `serve` serves from."""
    return patient.url


class Site(NamedTuple):
    """A server over the patient, with the runs tiny-1, which has some of everything, tiny-2, and tiny-3, deleted."""

    client: httpx.AsyncClient
    agent: Any
    bodies: dict[tuple[str, str], bytes]
    schedule: str
    proposal: str

    async def ask(self, method: str, path: str) -> tuple[int, httpx.Response, float]:
        """Status, answer and seconds of a good request."""
        run_id = "tiny-3" if path.endswith("/restore") else "tiny-1"
        address = path.replace("{run_id}", run_id).replace("{schedule_id}", self.schedule)
        address = address.replace("{proposal_id}", self.proposal)
        query = {"wait": "0"} if address.endswith("/settings") and method == "GET" else None
        began = time.monotonic()
        answer = await self.client.request(
            method,
            f"http://test{address}",
            params=query,
            headers={"If-Match": '"1"'} if method == "PATCH" or (method, path) == DECISION else None,
            content=self.bodies.get((method, path), b""),
        )
        return answer.status_code, answer, time.monotonic() - began

    async def ask_all(self, routes: Any) -> dict[tuple[str, str], tuple[int, httpx.Response, float]]:
        """All of them at once."""
        asked = sorted(routes)
        return dict(zip(asked, await asyncio.gather(*(self.ask(*each) for each in asked)), strict=True))


WHEN = {"scalar": "target_min", "comparison": "<", "value": 0.3}
RULE = {"id": "low", "when": WHEN, "settings": {"reset_generation": "+1"}}


@pytest.fixture
async def site(serve: Any, make_agent: Any) -> Site:
    client = await serve()
    agent, other = make_agent(client), make_agent(client, run_id="tiny-2", instance="two")
    await agent.register()
    await other.register()
    deleted = make_agent(client, run_id="tiny-3", instance="four")
    await deleted.register()
    await client.post(f"{deleted.run}/finish", json={"state": "finished"})
    assert (await client.delete(deleted.run, params={"grace": 3600})).status_code < 300
    assert (await agent.change(0, {"gamma2": 0.9}, reason="before")).status_code == 200
    row = [[[1, 1, 1, 1, 4], [1, 1, 1, 1, 7]]]
    await agent.send(range(1, 11), rows=agent.rows([10], row), applied=[agent.applied(1, 3, gamma2=0.9)])
    made = await client.post(f"{agent.run}/schedules", json={"from_step": 5000, "settings": {"gamma2": 0.8}})
    ruled = await client.put(f"{agent.run}/rules", json={"rules": [RULE]})
    new = {"revision": 1, "settings": {"gamma2": 0.6}}
    proposed = await client.post(f"{agent.run}/proposals", json=new)
    assert (made.status_code, ruled.status_code, proposed.status_code) == (201, 200, 201)
    assert (await client.get(f"{agent.run}/export")).status_code == 200  # the first one loads pyarrow, which takes long
    registration = make_agent(client, run_id="new-1", instance="three").registration
    bodies = {
        **WRITES,
        ("POST", API + "/runs"): encode_json(registration),
        ("POST", RUN + "/telemetry"): encode_batch(agent.batch(2, range(11, 21))),
        ("PUT", RUN + "/rules"): encode_json({"rules": [{**RULE, "max_actions": 7}]}),
    }
    return Site(client, agent, bodies, made.json()["id"], proposed.json()["id"])


def test_every_route_that_asks_the_store_is_tried_here(tmp_path: Path) -> None:
    app = create_app(ServerConfig(data=tmp_path), "redis://nowhere", Tokens.single("x"))
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert described - NO_STORE == READS | set(WRITES), "say in this file what they do to the store"


def expected(how: Broken) -> dict[tuple[str, str], int]:
    """What all routes answer."""
    responses = {**dict.fromkeys(READS, how.reads), **dict.fromkeys(WRITES, 503)}
    if how is FULL:
        responses[REMOVAL] = 204  # who could not remove anything could never make room
    return responses


@pytest.mark.serial
@pytest.mark.parametrize("how", [AWAY, HANGING, READ_ONLY, STALE, FULL, NO_REPLICAS], ids=lambda how: how.name)
async def test_each_route_answers_in_time(site: Site, patient: Patient, how: Broken) -> None:
    with patient.failing(how):
        responses = await site.ask_all(expected(how).keys() - {REMOVAL})
        responses[REMOVAL] = await site.ask(*REMOVAL)
    assert {route: status for route, (status, *_) in responses.items()} == expected(how)
    for route, (status, answer, seconds) in responses.items():
        assert seconds < WITHIN_S, route
        if status == 503:
            assert answer.headers["retry-after"] == "2", route
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["title"] == "Redis unavailable"


@pytest.mark.parametrize("how", [AWAY, READ_ONLY, STALE, FULL, NO_REPLICAS], ids=lambda how: how.name)
async def test_what_is_answered_503_is_not_written_in_part_and_is_taken_afterwards(
    site: Site, patient: Patient, how: Broken
) -> None:
    before = patient.content()
    with patient.failing(how):
        for _ in range(2):  # what a process remembers of a failure changes nothing
            await site.ask_all(WRITES.keys() - {REMOVAL})
    assert patient.content() == before
    order = sorted(WRITES, key=lambda route: (route == REMOVAL, route[1].endswith("/finish")))
    healed = {route: (await site.ask(*route))[0] for route in order}
    assert {route: status for route, status in healed.items() if status >= 300} == {}


async def test_what_a_hanging_store_was_asked_is_done_once_and_whole_or_not_at_all(
    site: Site, patient: Patient
) -> None:
    writes = WRITES.keys() - {REMOVAL, ("POST", RUN + "/finish")}
    with patient.failing(HANGING):
        for _ in range(2):
            assert {status for status, *_ in (await site.ask_all(writes)).values()} == {503}
    sent = site.agent.batch(2, range(11, 21))
    for _ in range(2):
        assert (await site.agent.post(sent)).json()["acknowledged"] == 2
    assert (await site.agent.get())["counters"]["steps"] == 20
    desired = (await site.agent.get("/settings"))["revision"]
    trail = await site.agent.get("/audit", verify=True)
    assert trail["chain"]["verified"]
    assert [entry["revision"] for entry in trail["entries"]] == list(range(desired, 0, -1))
    assert (await site.ask("POST", API + "/runs"))[0] in (200, 201)
    assert "new-1" in [run["run_id"] for run in (await site.client.get("/runs")).json()["runs"]]


@pytest.mark.parametrize("how", [READ_ONLY, FULL, NO_REPLICAS], ids=lambda how: how.name)
async def test_a_run_that_fell_silent_is_still_shown_by_a_store_that_takes_no_writes(
    site: Site, patient: Patient, clock: Any, how: Broken
) -> None:
    clock.now += 3600
    with patient.failing(how):
        responses = await site.ask_all(READS)
        assert {route: status for route, (status, *_) in responses.items()} == dict.fromkeys(READS, 200)
        assert responses["GET", RUN][1].json()["state"] == "stalled"
    await sweep(site.client)
    events = (await site.agent.get("/events"))["events"]
    assert [event["kind"] for event in events].count("stalled") == 1  # reported once it can be written


async def test_a_real_agent_keeps_what_a_read_only_store_refused_and_sends_it_later(
    stack: Any, run_job: Any, eventually: Any
) -> None:
    repository = Patient(f"unix://{stack.home}/redis/redis.sock")
    with contextlib.closing(repository), run_job(stack, "meets-a-read-only-store") as job:

        def shown() -> Any:
            return stack.client.run(job.run_id)

        eventually(lambda: [run for run in stack.client.runs().runs if run.run_id == job.run_id and run.step > 20])
        with repository.failing(READ_ONLY):
            eventually(lambda: job.agent.counters.buffered > 20)
            known = shown().step
        eventually(lambda: shown().step > known + 20)
        run = shown()
        assert (run.counters.dropped, run.state) == (0, "running")
        assert run.counters.steps == run.step  # each one, and none twice
