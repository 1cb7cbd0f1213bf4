"""Whom a proxy names is believed of its own connections only, and the owner's token is lent to nobody behind one."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.datastructures import Headers

from steadynorm_dashboard import launch, person
from steadynorm_dashboard.components.proxy_identity import ProxyIdentity
from steadynorm_dashboard.data.session import uses_home_token

ADA = [(b"x-forwarded-email", b"ada@example.org"), (b"x-forwarded-groups", b"ml-oncall"), (b"host", b"x")]


class Request(Headers):
    """With Streamlit's name for it."""

    def get_all(self, key: str) -> list[str]:
        return self.getlist(key)


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYNORM_TRUSTED_PROXY", "10.1.0.0/16")
    monkeypatch.setenv("STEADYNORM_PROXY_TOKEN", "a-dashboard-token")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")


async def left(client: tuple[str, int] | None, kind: str = "websocket") -> list[bytes]:
    """The headers that a page can read."""
    seen: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(name for name, _ in scope["headers"])

    nothing: Any = None
    await ProxyIdentity(app)({"type": kind, "headers": ADA, "client": client}, nothing, nothing)
    return seen


@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_a_name_from_another_address_never_reaches_a_page(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await left(("10.1.2.3", 4000), kind) == [name for name, _ in ADA]
    for client in (("10.2.0.1", 4000), ("127.0.0.1", 4000), ("", 0), None):
        assert await left(client, kind) == [b"host"]
    monkeypatch.delenv("FORWARDED_ALLOW_IPS")  # then an address may be what a visitor wrote into X-Forwarded-For
    assert await left(("10.1.2.3", 4000), kind) == [b"host"]
    monkeypatch.delenv("STEADYNORM_TRUSTED_PROXY")
    assert await left(("10.1.2.3", 4000), kind) == [b"host"]


def test_one_name_goes_to_the_server_and_an_unclear_one_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    named = {"X-Forwarded-Email": "ada@example.org", "X-Forwarded-Groups": "ml-oncall"}
    assert person.named_in(Request(raw=ADA)) == named
    assert person.named_in(Request(raw=ADA[:1])) == {"X-Forwarded-Email": "ada@example.org"}
    for unclear in ([*ADA, ADA[0]], [*ADA, ADA[1]], ADA[1:], [(ADA[0][0], b" "), *ADA[1:]]):
        assert person.named_in(Request(raw=unclear)) == {}
    monkeypatch.delenv("STEADYNORM_PROXY_TOKEN")  # else the token in the home folder would speak for everybody
    assert person.named_in(Request(raw=ADA)) == {}
    (tmp_path / "token").write_text("a-dashboard-token\n")
    monkeypatch.setenv("STEADYNORM_PROXY_TOKEN_FILE", str(tmp_path / "token"))
    assert (person.named_in(Request(raw=ADA)), person.token()) == (named, "a-dashboard-token")


def test_behind_such_a_proxy_nobody_is_lent_the_owners_token_and_addresses_are_the_connections_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STEADYNORM_DASHBOARD_SIGN_IN", "never")
    local = ("http://127.0.0.1:8470", "127.0.0.1", {"Host": "localhost:8501"})
    assert not uses_home_token(*local)
    assert launch.command()[2] == "steadynorm_dashboard.streamlit_process"
    monkeypatch.delenv("STEADYNORM_TRUSTED_PROXY")
    assert uses_home_token(*local)
    assert launch.command()[2] == "streamlit"
