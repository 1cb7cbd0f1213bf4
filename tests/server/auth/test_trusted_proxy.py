"""People whom a trusted proxy names: roles by their groups, names in the audit list; nobody else's header counts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from steadynorm_server.auth.proxy import findings
from steadynorm_server.auth.tokens import Tokens
from steadynorm_server.config import ServerConfig
from steadynorm_server.errors import StartError
from steadynorm_server.middleware.peer import with_peer
from steadynorm_server.runtime.serve import serve as serve_process

PROXY, STRANGER = "10.1.2.3", "10.2.0.1"
ADA = {"X-Forwarded-Email": "ada@example.org", "X-Forwarded-Groups": "everyone, ml-oncall"}
BOB = {"X-Forwarded-Email": "bob@example.org", "X-Forwarded-Groups": "everyone"}


@pytest.fixture
async def api(serve: Any) -> httpx.AsyncClient:
    """With the token that has all roles, for agents."""
    client: httpx.AsyncClient = await serve(
        trusted_proxy="10.1.0.0/16, 127.0.0.7", operator_groups="ml-oncall,admins", viewer_groups="everyone"
    )
    return client


def caller(api: Any, address: str, headers: dict[str, str] | list[tuple[str, str]]) -> httpx.AsyncClient:
    """A client without a token whose requests come from this address, as uvicorn hands them over."""
    transport = httpx.ASGITransport(with_peer(api.app), client=(address, 40_000))
    return httpx.AsyncClient(transport=transport, base_url="http://test/api/v1", headers=headers)


@pytest.fixture
async def ada(api: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with caller(api, PROXY, ADA) as client:
        yield client


async def test_who_signed_in_at_the_proxy_is_named_in_the_audit_list(ada: httpx.AsyncClient, agent: Any) -> None:
    assert (await ada.get("/me")).json() == {"name": "ada@example.org", "roles": ["operator", "viewer"], "runs": None}
    changed = await ada.patch(
        f"{agent.run}/settings", json={"settings": {"gamma2": 0.9}, "reason": "calm"}, headers={"If-Match": '"0"'}
    )
    assert changed.status_code == 200
    (entry,) = (await ada.get(f"{agent.run}/audit")).json()["entries"]
    assert entry["actor"] == "ada@example.org"
    async with caller(agent.client, PROXY, BOB) as bob:
        assert (await bob.get(agent.run)).status_code == 200
        refused = await bob.patch(f"{agent.run}/settings", json={"settings": {"gamma2": 0.8}})
        assert refused.status_code == 403
        assert "'bob@example.org'" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://wiki.example.org"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://test"}, 201),
        ({}, 201),
    ],
)
async def test_a_change_that_another_sites_page_sends_with_the_proxys_cookie_is_refused(
    ada: httpx.AsyncClient, agent: Any, headers: dict[str, str], status: int
) -> None:
    path = f"{agent.run}/notes"
    assert (await ada.post(path, json={"text": "looking"}, headers=headers)).status_code == status
    assert (await ada.get(agent.run, headers=headers)).status_code == 200


@pytest.mark.parametrize("forwarded", [{}, {"X-Forwarded-For": PROXY}, {"Forwarded": f"for={PROXY}"}])
@pytest.mark.parametrize("peer", [STRANGER, "127.0.0.1"])
async def test_a_header_from_anybody_else_is_ignored_and_counted(
    api: httpx.AsyncClient, peer: str, forwarded: dict[str, str]
) -> None:
    async with caller(api, peer, ADA | forwarded) as spoofing:
        for number in (1, 2):
            assert (await spoofing.get("/me")).status_code == 401
            metrics = (await api.get("http://test/metrics")).text
            assert f"steadynorm_server_ignored_identities_total {number}.0" in metrics or number == 1
        with_token = await spoofing.get("/me", headers={"Authorization": api.headers["Authorization"]})
        assert with_token.json()["name"] == "local"  # the token's holder, not Ada


async def test_a_proxy_on_an_ipv4_address_is_known_by_a_socket_of_both_kinds(api: httpx.AsyncClient) -> None:
    async with caller(api, f"::ffff:{PROXY}", BOB) as bob:
        assert (await bob.get("/me")).json()["roles"] == ["viewer"]


async def test_what_a_proxy_does_not_say_clearly_gives_no_role(api: httpx.AsyncClient) -> None:
    twice = [("X-Forwarded-Email", "ada@example.org"), ("X-Forwarded-Email", "eve@example.org")]
    for headers, status in (
        (twice, 400),
        ({"X-Forwarded-Email": "a" * 201}, 400),
        ({"X-Forwarded-Email": " "}, 400),
        ({"X-Forwarded-Email": "eve@example.org", "X-Forwarded-Groups": "sales"}, 403),
        ({"X-Forwarded-Groups": "admins"}, 401),
        ([*BOB.items(), ("X-Forwarded-Groups", "admins")], 400),
    ):
        async with caller(api, PROXY, headers) as client:
            assert (await client.get("/me")).status_code == status


async def test_a_dashboard_with_its_token_names_people_from_any_address(serve: Any, make_agent: Any) -> None:
    api = await serve(proxy_token=SecretStr("a-dashboard-token"), operator_groups="ml-oncall", viewer_groups="everyone")
    agent = make_agent(api)
    await agent.register()
    bearer = {"Authorization": "Bearer a-dashboard-token"}
    async with caller(api, STRANGER, {**ADA, **bearer}) as dashboard:
        assert (await dashboard.get("/me")).json()["name"] == "ada@example.org"
        change = {"settings": {"gamma2": 0.9}}
        assert (await dashboard.patch(f"{agent.run}/settings", json=change, headers={"If-Match": '"0"'})).is_success
        (entry,) = (await dashboard.get(f"{agent.run}/audit")).json()["entries"]
        assert entry["actor"] == "ada@example.org"
    for headers, status, said in (
        (bearer, 401, "the dashboard's token alone is nobody"),
        ({**ADA, "Authorization": "Bearer a-dashboard-tokem"}, 401, "unknown token"),
        (ADA, 401, "a token is required"),
        ({**bearer, **ADA, "X-Forwarded-Groups": "sales"}, 403, "has no role here"),
    ):
        async with caller(api, STRANGER, headers) as other:
            answer = await other.get("/me")
            assert (answer.status_code, said in answer.json()["detail"]) == (status, True)


def test_a_dashboards_token_is_long_and_of_no_role() -> None:
    same = SecretStr(16 * "a")
    for given, said in (
        (ServerConfig(proxy_token=SecretStr("short")), "STEADYNORM_PROXY_TOKEN must have at least 16 characters"),
        (ServerConfig(proxy_token=same, viewer_token=same), "viewer and proxy are the same"),
    ):
        with pytest.raises(StartError, match=said):
            Tokens.configured(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("proxy.example", "must list addresses or networks"),
        ("0.0.0.0/0", "half the"),
        ("::/0", "half the"),
    ],
)
def test_a_proxy_that_is_everybody_or_nobody_ends_the_start(given: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=said):
        serve_process(ServerConfig(data=tmp_path, port=0, trusted_proxy=given))


def test_a_proxy_on_this_machine_is_warned_of(tmp_path: Path) -> None:
    def warned(trusted: str) -> list[str]:
        return findings(ServerConfig(data=tmp_path, trusted_proxy=trusted))

    assert warned("") == warned("10.1.2.3, 10.4.0.0/16") == []
    for local in ("127.0.0.1", "10.1.2.3, ::1", "127.0.0.0/8"):
        (line,) = warned(local)
        assert "every user and program of this machine can name anybody there, operators too" in line
