"""REDIS_URL is read, or refused in one line that repeats no part of a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.redis.address import RedisAddressError, StoreAddress
from steadynorm_server.runtime.serve import serve


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://ada:hush?x@host", "percent-encoded"),
        ("redis://ada:hush/x@host", "percent-encoded"),
        ("redis://ada:hush#x@host", "percent-encoded"),
        ("redis://:x@hush?z@host:6379", "percent-encoded"),
        ("redis://:x@hush/z@host:6379", "percent-encoded"),
        ("redis://ada:[hush@host", "percent-encoded"),
        ("redis://:123/hush@host", "percent-encoded"),
        ("redis://:hush@host:port", "port in REDIS_URL must be a number"),
        ("redis://:hush@host/cache", "database at the end of REDIS_URL must be a number"),
        ("redis+cluster://:hush@one,two/3", "a cluster has the database 0 only: got 3"),
        ("redis+sentinel://:hush@one:26379", "redis+sentinel://HOST:26379/NAME"),
        ("redis://:hush@one,two", "redis+cluster:// for a cluster, redis+sentinel:// for Sentinels"),
        ("sentinel://:hush@one", "must begin with one of redis://"),
        ("hush@host:6379", "got none"),
        ("redis://host?pasword=hush", "the option pasword"),
        ("redis://host?db=hush", "the option db"),
        ("rediss://:hush@host?ssl_ca_certs=/none/ca.pem", "for TLS cannot be read: No such file"),
    ],
)
def test_a_wrong_address_ends_the_start_in_one_line_without_its_secret(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StartError) as refused:
        serve(ServerConfig(data=tmp_path, port=0, redis_url=url))
    text = str(refused.value)
    assert said in text
    assert "\n" not in text
    assert "hush" not in text
    assert "hush" not in repr(refused.value.__cause__)


def test_the_nodes_of_an_address_are_reached_with_its_user_and_options() -> None:
    sentinel = StoreAddress.parse("redis+sentinel://ada:p%40@one,[::2]:7/main/2?sentinel_password=s&client_name=x")
    assert (sentinel.nodes, sentinel.service) == ((("one", 26379), ("::2", 7)), "main")
    assert sentinel.url_of(("three", 6380)) == "redis://ada:p%40@three:6380/2?client_name=x"
    assert sentinel.sentinel_options() == {"password": "s"}
    assert sentinel.shown == "redis+sentinel://one,[::2]:7/main/2"
    cluster = StoreAddress.parse("redis+cluster://ada:se,cret@one,two:1")
    assert cluster.nodes == (("one", 6379), ("two", 1))
    assert cluster.url_of(("::3", 2)) == "redis://ada:se,cret@[::3]:2"
    assert StoreAddress.parse("unix:///run/a@b.sock?db=3").url_of() == "unix:///run/a@b.sock?db=3"
    assert "cret" not in repr(cluster)


def test_the_text_of_an_address_error_is_the_only_thing_that_is_said() -> None:
    with pytest.raises(RedisAddressError) as refused:
        StoreAddress.parse("redis://ada:hush?x@host")
    assert refused.value.__cause__ is None
