"""A run's history comes as a file, by a link that holds no token and is good once."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import httpx
import pyarrow.parquet
from starlette.applications import Starlette
from starlette.routing import Route

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.client import Client
from steadynorm_dashboard.data.downloads import PATH, TICKETS, Ticket, Tickets, download

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, StartRun

VIEWER = "viewer-token-for-tests"
APP = Starlette(routes=[Route(PATH, download)])


async def get(path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(APP), base_url="http://dashboard") as client:
        return await client.get(path)


async def test_a_viewer_downloads_both_tables_by_the_links_on_the_page(
    open_page: OpenPage, start_run: StartRun
) -> None:
    run_id = start_run("exported").run_id
    page = open_page(run_id, VIEWER, tab="Export")
    links = [button.proto.url for button in page.get("link_button")]
    assert len(links) == 3
    assert not any(VIEWER in link for link in links)
    page.run()
    assert [button.proto.url for button in page.get("link_button")] == links  # nothing moves under a hand
    rows = []
    for link, name in zip(links, ("steps", "parameters", "scalars"), strict=True):
        answer = await get(f"/{link}")
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="{run_id}-{name}.parquet"'
        assert answer.headers["cache-control"] == "no-store"
        rows.append(pyarrow.parquet.read_table(io.BytesIO(answer.content)).num_rows)
    assert rows[0] == 400
    assert rows[1] >= 400
    assert rows[2] == 0  # it logs none
    page.run()
    assert not set(links) & {button.proto.url for button in page.get("link_button")}  # used: there are new ones
    assert (await get(f"/{links[0]}")).status_code == 410


async def test_what_the_server_refuses_is_told_with_its_status(server: LocalStack) -> None:
    for client, run_id, status in (
        (Client(server.server, VIEWER), "nobody-00000000", 404),
        (Client(server.server, "wrong"), "nobody-00000000", 401),
        (Client("http://127.0.0.1:9", VIEWER), "nobody-00000000", 502),
    ):
        ticket = TICKETS.issue(Ticket(client, run_id, "steps"))
        answer = await get(PATH.format(ticket=ticket))
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")


def test_a_ticket_is_good_once_and_not_for_long() -> None:
    now = 0.0
    tickets = Tickets(valid_s=60.0, limit=2, clock=lambda: now)
    ticket = Ticket(Client("http://127.0.0.1:9", None), "run", "steps")
    first, second = tickets.issue(ticket), tickets.issue(ticket)
    assert first != second
    assert tickets.redeem(first) is ticket
    assert tickets.redeem(first) is None
    assert tickets.is_valid(second, 59.0)
    assert not tickets.is_valid(second, 60.0)
    now = 60.0
    assert tickets.redeem(second) is None
    names = [tickets.issue(ticket) for _ in range(3)]
    assert [tickets.redeem(name) for name in names] == [None, ticket, ticket]
