"""What one call of the command line costs a server with 200 runs: requests to it, and its commands to Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import redis
import urllib3

from steadynorm_cli.commands.options import find_run
from steadynorm_cli.commands.set import set_
from steadynorm_cli.commands.show import show
from steadynorm_cli.errors import CommandError
from steadynorm_contract.client import Client, NotFound
from steadynorm_contract.codec import encode_json
from steadynorm_contract.telemetry import Parameter, RunRegistration

if TYPE_CHECKING:
    from tests.support.local_server import RunningStack

RUNS = 200


class Counting(Client):
    """A client that notes each request."""

    def __init__(self, stack: RunningStack) -> None:
        super().__init__(stack.server, stack.token)
        self.requests: list[str] = []

    def _open(self, method: str, path: str, **options: object) -> urllib3.BaseHTTPResponse:
        self.requests.append(f"{method} {path}")
        return super()._open(method, path, **options)  # type: ignore[arg-type]  # as it came


@pytest.fixture(scope="module")
def fleet(stack: RunningStack) -> None:
    """200 runs called counted-0 to counted-199, of which the ids end otherwise."""
    with urllib3.PoolManager(headers={"Authorization": f"Bearer {stack.token}"}) as pool:
        for at in range(RUNS):
            body = RunRegistration(
                name=f"counted {at}", run_id=f"counted-{at}-id", parameters=[Parameter("w", (2,), "float32")]
            )
            answer = pool.request("POST", f"{stack.server}/api/v1/runs", body=encode_json(body))
            assert answer.status in (200, 201), answer.data


@pytest.fixture
def client(stack: RunningStack, fleet: None) -> Counting:
    """A client that counts."""
    return Counting(stack)


@pytest.fixture
def store(stack: RunningStack) -> Iterator[redis.Redis]:
    """The server's Redis."""
    with redis.Redis.from_url(f"unix://{stack.home}/redis/redis.sock", protocol=2) as connection:
        yield connection


def test_an_id_is_one_request(client: Counting) -> None:
    assert find_run(client, "counted-77-id").name == "counted 77"
    assert client.requests == ["GET /runs/counted-77-id"]


def test_a_name_or_its_unique_prefix_is_one_filtered_request_more(client: Counting) -> None:
    assert find_run(client, "counted 77").run_id == "counted-77-id"
    assert client.requests == ["GET /runs?name=counted+77%2A"]
    client.requests.clear()
    assert find_run(client, "counted 19").run_id == "counted-19-id", "a name comes before the names that begin so"


def test_the_prefix_of_an_id_is_found_and_an_ambiguous_one_named(client: Counting) -> None:
    assert find_run(client, "counted-77-").run_id == "counted-77-id"
    assert [each.partition("?")[0] for each in client.requests] == ["GET /runs/counted-77-", "GET /runs", "GET /fleet"]
    with pytest.raises(CommandError, match="'counted-1' matches") as several:
        find_run(client, "counted-1")
    assert "more" in str(several.value)
    client.requests.clear()
    with pytest.raises(CommandError, match=r"no run on .*\[counted"):
        find_run(client, "[counted 77]*")
    assert client.requests[0] == "GET /runs?name=%5B%5B%5Dcounted+77%5D%5B%2A%5D%2A"
    for odd in ("", ".", "..", "a/b"):
        with pytest.raises(CommandError, match="no run on"):
            find_run(client, odd)


def test_show_and_set_of_an_id_read_one_run(
    client: Counting, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("steadynorm_cli.commands.show.Client", lambda _: client)
    monkeypatch.setattr("steadynorm_cli.commands.set.Client", lambda _: client)
    show("counted-77-id")
    assert [each.partition("?")[0] for each in client.requests] == [
        "GET /runs/counted-77-id", "GET /runs/counted-77-id/configuration", "GET /runs/counted-77-id/audit",
        "GET /runs/counted-77-id/events",
    ]  # fmt: skip
    client.requests.clear()
    set_("counted-77-id", ["gamma2=0.5"], no_wait=True)
    assert client.requests == ["GET /runs/counted-77-id", "PATCH /runs/counted-77-id/settings"]
    assert "revision 1: gamma2 0.999 → 0.5" in capsys.readouterr().out

    with monkeypatch.context() as older:  # a server of before runs had a configuration

        def missing(_run_id: str) -> None:
            raise NotFound("there is no such route")

        older.setattr(client, "configuration", missing)
        show("counted-77-id")
        assert "CHANGES" in capsys.readouterr().out

    reads = []
    for _ in range(3):
        before = _reads(store)
        show("counted-77-id")
        reads.append(_reads(store) - before)
    assert min(reads) < 10, "the server's sweeper reads all runs now and then, this command does not"


def _reads(store: redis.Redis) -> int:
    """Hashes of runs that Redis was asked for so far."""
    stats = store.info("commandstats")
    return sum(each["calls"] for name, each in stats.items() if name in ("cmdstat_hgetall", "cmdstat_hmget"))
