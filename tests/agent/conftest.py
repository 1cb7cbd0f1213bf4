"""Fixtures of the agent's tests; what they return is in tests/support."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.agent import StubServer, Training, wait_until
from tests.support.interpreter import Interpreter
from tests.support.ranks import RankServer, RunRanks, StartedRanks, rank_server

from steadynorm.transport import http_client, publisher


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test uses this user's own server."""
    for name in ("STEADYNORM_SERVER", "STEADYNORM_TOKEN", "STEADYNORM_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path / "home"))


_SHIPPED_IDLE_S = publisher.CLOSE_IDLE_S


@pytest.fixture(autouse=True)
def _patience_with_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """close() waits longer for an acknowledgement than as shipped: machines of tests stand still now and then."""
    monkeypatch.setattr(publisher, "CLOSE_IDLE_S", 10 * _SHIPPED_IDLE_S)


@pytest.fixture
def impatient_with_servers(_patience_with_servers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As shipped: for tests of how long close() takes."""
    monkeypatch.setattr(publisher, "CLOSE_IDLE_S", _SHIPPED_IDLE_S)


@pytest.fixture(autouse=True)
def _short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded is looked at, and sent, within a twentieth of a second, and not within a second as shipped."""
    monkeypatch.setattr(publisher, "PERIOD_S", 0.05)
    monkeypatch.setattr(http_client, "PACE_S", 0.05)


@pytest.fixture
def stub() -> Iterator[StubServer]:
    """The server."""
    server = StubServer()
    yield server
    if not server.closing:
        server.close()


@pytest.fixture
def restart() -> Iterator[Callable[[StubServer], StubServer]]:
    """restart(killed): a server at the same address that knows the same runs."""
    started: list[StubServer] = []

    def start(killed: StubServer) -> StubServer:
        started.append(StubServer(killed.port, killed.runs))
        return started[-1]

    yield start
    for server in started:
        if not server.closing:
            server.close()


@pytest.fixture
def training() -> Training:
    """The model and its optimizer."""
    return Training()


@pytest.fixture
def make_training() -> type[Training]:
    """For tests that compare several."""
    return Training


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """until(condition): waits for it."""
    return wait_until


@pytest.fixture(scope="session", name="rank_server")
def _rank_server(python: Interpreter) -> Iterator[RankServer]:
    """The process from which ranks are forked: it takes longer to import torch than most scenarios run."""
    with rank_server(python) as server:
        yield server


@pytest.fixture
def start_ranks(rank_server: RankServer, tmp_path: Path) -> Iterator[Callable[..., StartedRanks]]:
    """start_ranks(world, scenario, program=..., **arguments): starts a scenario, which ends with the test."""
    started: list[StartedRanks] = []

    def start(world: int, scenario: str, *, program: str = "scenarios", **arguments: object) -> StartedRanks:
        started.append(rank_server.start(tmp_path / f"ranks{len(started)}", world, program, scenario, arguments))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def ranks(start_ranks: Callable[..., StartedRanks]) -> RunRanks:
    """ranks(world, scenario, **arguments): what each rank returned."""
    return lambda world, scenario, **arguments: start_ranks(world, scenario, **arguments).results()
