"""A link without a token signs the owner in once; then a cookie does, and nothing else on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.routing import Route
from streamlit.runtime.context import ContextProxy

from steadynorm_cli.commands.link import link
from steadynorm_dashboard import owner_link
from steadynorm_dashboard.data import owner

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage

TOKEN, OTHER, SERVER = "operator-token-for-tests", "operator-token-for-others", "http://127.0.0.1:8470"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def ticket() -> str:
    return owner_link.make_link("http://d", TOKEN, clock=Clock()).rpartition("/")[2]


def test_a_ticket_works_once_for_ten_minutes_and_only_with_its_token() -> None:
    clock = Clock()
    tickets = owner_link.Tickets(clock)
    first, second = ticket(), ticket()
    assert first != second
    assert TOKEN not in first
    assert [tickets.redeem(first, TOKEN), tickets.redeem(first, TOKEN)] == [True, False]
    assert not tickets.redeem(second, OTHER)
    for forged in ("", ".", "9" * 11, f"9{second}", second[:-1], second + "0", owner_link.make_cookie(TOKEN, clock)):
        assert not tickets.redeem(forged, TOKEN)
    clock.now += 601
    assert not tickets.redeem(second, TOKEN)


def test_a_cookie_holds_for_a_month_with_its_token_and_is_no_ticket() -> None:
    clock = Clock()
    cookie = owner_link.make_cookie(TOKEN, clock)
    assert owner_link.is_cookie(cookie, TOKEN, clock)
    assert not owner_link.is_cookie(cookie, OTHER, clock)
    for other in (None, "", "a.b.c", "\xe9.b.\xe9", ticket(), cookie.replace(".", "1.", 1)):
        assert not owner_link.is_cookie(other, TOKEN, clock)
    clock.now += 31 * 86_400
    assert not owner_link.is_cookie(cookie, TOKEN, clock)


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the user who runs the server."""
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("STEADYNORM_HOME", str(tmp_path))
    monkeypatch.setenv("STEADYNORM_SERVER", SERVER)
    monkeypatch.delenv("STEADYNORM_TOKEN", raising=False)


@pytest.mark.usefixtures("_home")
async def test_the_link_of_the_command_leads_to_the_page_with_a_cookie_and_not_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    link(dashboard="http://127.0.0.1:8501/norms/", server=SERVER)
    address = capsys.readouterr().out.strip()
    assert address.startswith("http://127.0.0.1:8501/norms/link/")
    monkeypatch.setattr(st, "get_option", {"server.address": "127.0.0.1", "server.port": 8501}.get)
    app = Starlette(routes=[Route("/norms" + owner_link.PATH, owner.redeem)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as browser:
        for headers in ({"X-Forwarded-For": "10.1.2.3"}, {"Host": "evil.example"}):
            assert (await browser.get(address, headers=headers)).status_code == 403
        answer = await browser.get(f"{address}?run=tiny-1")
        assert (answer.status_code, answer.headers["location"]) == (303, "/norms/?run=tiny-1")
        set_ = answer.headers["set-cookie"]
        assert set_.startswith("steadynorm-owner-8501=")  # one at another port has a cookie of its own
        assert all(part in set_ for part in ("HttpOnly", "SameSite=strict", "Path=/norms/", "Max-Age=2592000"))
        assert owner_link.is_cookie(set_.partition("=")[2].partition(";")[0], TOKEN)
        again = await browser.get(address)
        assert (again.status_code, "set-cookie" in again.headers) == (403, False)
        assert "`steadynorm link` prints a new one" in again.text


def test_the_cookie_lends_the_owners_token_and_another_does_not(
    open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.delenv("STEADYNORM_DASHBOARD_SIGN_IN", raising=False)
    real = st.get_option
    monkeypatch.setattr(st, "get_option", lambda name: "127.0.0.1" if name == "server.address" else real(name))
    for cookie, signed_in in (
        (owner_link.make_cookie(TOKEN), True),
        (owner_link.make_cookie(OTHER), False),
        ("", False),
    ):
        monkeypatch.setattr(ContextProxy, "cookies", {owner_link.cookie_name(real("server.port")): cookie})
        titles = [title.value for title in open_page(token=None).title]
        assert ("Runs overview" in titles) is signed_in
