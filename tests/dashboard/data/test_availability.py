"""Before a server that hangs: one read waits and the others do not, and nobody sees what another token was shown."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from streamlit.testing.v1 import AppTest

from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.client import Client, ServerUnreachable
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.data.availability import CircuitBreaker
from steadynorm_dashboard.data.shared_cache import SharedCache

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, StartRun
    from tests.support.waiting import Eventually

TIMEOUT_S = 3.0  # to draw a page takes a second of it on a busy machine
LAST = "this is the last known data"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shorter time-out than a visitor's, and no answers shared between visitors."""
    monkeypatch.setattr(session, "_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(queries, "shared_cache", SharedCache(fresh_s=0))


@contextmanager
def hung(server: LocalStack) -> Iterator[None]:
    """The server's process stands still: it takes connections, and answers none."""
    pid = server._children[0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def said(app: AppTest) -> str:
    kinds = (app.title, app.header, app.markdown, app.caption, app.error, app.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


@pytest.mark.serial
def test_a_page_waits_once_for_a_server_that_hangs_and_goes_on_by_itself(
    server: LocalStack, start_run: StartRun, open_page: OpenPage, eventually: Eventually
) -> None:
    run = start_run("hangs")
    page = open_page(run.run_id)
    before = {metric.label: metric.value for metric in page.metric}
    with hung(server):
        begun = time.monotonic()
        page.run()
        assert time.monotonic() - begun < 3 * TIMEOUT_S  # its parts read nine times
        assert LAST in said(page)
        assert {metric.label: metric.value for metric in page.metric} == before
        begun = time.monotonic()
        page.run()
        assert time.monotonic() - begun < TIMEOUT_S
        new = open_page(run.run_id)
        assert "No steadynorm server answers at" in said(new)
        assert "it hangs or is overloaded" in said(new)
        assert "steadynorm up" not in said(new)
    eventually(lambda: LAST not in said(page.run()))


def test_another_token_begins_with_nothing(
    server: LocalStack, start_run: StartRun, open_page: OpenPage, eventually: Eventually
) -> None:
    run = start_run("of the first token alone")
    page = open_page(run.run_id)
    eventually(lambda: "of the first token alone" in said(page.run()))
    with hung(server):
        page.query_params["token"] = "another-token-for-tests"
        page.run()
        assert "of the first token alone" not in said(page)
        assert "No steadynorm server answers at" in said(page)
    eventually(lambda: "does not accept this token" in said(page.run()))
    assert "of the first token alone" not in said(page)


def test_a_session_keeps_a_bounded_number_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        import streamlit as st

        from steadynorm_dashboard.data import queries, session

        session.sign_in("token")
        for at in range(200):
            queries.fetch(f"run/series/{at}", lambda _, at=at: at)  # type: ignore[misc]  # bound now
        st.write(",".join(session.answers()))

    monkeypatch.setenv("STEADYNORM_SERVER", "http://127.0.0.1:2")  # it is not asked
    shown = AppTest.from_function(app, default_timeout=60).run()
    kept = str(shown.markdown[0].value).split(",")
    assert len(kept) == queries._MAX_ANSWERS
    assert kept[-1] == "run/series/199"


def test_a_server_that_nobody_looks_at_any_more_is_not_asked_for_ever(eventually: Eventually) -> None:
    breaker, client = CircuitBreaker(interval_s=0.01, idle_s=2.0), Client("http://127.0.0.1:9", "token")
    with pytest.raises(ServerUnreachable) as first:
        breaker.call(client, Client.me)
    asked: list[Client] = []
    with pytest.raises(ServerUnreachable) as second:
        breaker.call(client, asked.append)
    assert second.value is first.value
    assert not asked
    eventually(lambda: not breaker._outages)
    breaker.call(client, asked.append)
    assert asked == [client]
