"""Apply and its like before a server whose answers are lost: no claim that nothing was changed, and then what was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from streamlit.testing.v1 import AppTest
from tests.support.proxy import Proxy

from steadynorm_cli.local_stack import LocalStack
from steadynorm_dashboard.data import session

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, StartRun
    from tests.support.waiting import Eventually


@pytest.fixture
def proxy(server: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands between the dashboard and the server."""
    monkeypatch.setattr(session, "_TIMEOUT_S", 3.0)
    with Proxy(server.server) as between:
        yield between


def said(app: AppTest) -> str:
    """What the page says in words, without escapes."""
    kinds = (app.markdown, app.caption, app.error, app.warning, app.success)
    words = "\n".join(str(element.value) for kind in kinds for element in kind)
    return words.replace("\\", "").replace("\u2060", "")


def until_said(page: AppTest, words: str, eventually: Eventually) -> None:
    """Draw the page until it says so. Fails with what it says instead."""
    seen = [""]

    def look() -> bool:
        seen.append(said(page.run()))
        return words in seen[-1]

    try:
        eventually(look)
    except AssertionError as error:
        raise AssertionError(f"the page does not say {words!r} but:\n{seen[-1]}") from error


def edit(page: AppTest, name: str, value: float) -> None:
    next(one for one in page.number_input if one.label == name).set_value(value).run()


def test_apply_is_at_work_until_it_is_known_what_came_of_it(
    proxy: Proxy, server: LocalStack, start_run: StartRun, open_page: OpenPage, eventually: Eventually
) -> None:
    run = start_run("answer lost")
    page = open_page(run.run_id, at=proxy.server)
    edit(page, "gamma2", 0.99)
    proxy.writes = "hold"
    page.button(key=f"{run.run_id}/apply").click().run()
    apply = page.button(key=f"{run.run_id}/apply")
    assert (apply.label, apply.disabled) == ("Applying…", True)
    seen: list[str] = []

    def is_made() -> bool:
        seen.append(said(page.run()))
        return "Your change was made as r1." in seen[-1]

    eventually(is_made)
    assert any("Sending" in each or "It may still make this change." in each for each in seen)
    assert not any("nothing was changed" in each.lower() for each in seen)
    assert server.client().settings(run.run_id).settings.gamma2 == 0.99
    assert page.button(key=f"{run.run_id}/apply").label == "Apply"
    assert "No changes to apply." in said(page)


def test_an_edit_that_did_not_arrive_is_kept_and_can_be_applied_again(
    proxy: Proxy, server: LocalStack, start_run: StartRun, open_page: OpenPage, eventually: Eventually
) -> None:
    run = start_run("request lost")
    page = open_page(run.run_id, at=proxy.server)
    edit(page, "gamma2", 0.99)
    proxy.writes = "lose"
    page.button(key=f"{run.run_id}/apply").click().run()
    until_said(page, f"Your change was not made: {run.run_id} is still at r0.", eventually)
    proxy.writes = "pass"
    page.button(key=f"{run.run_id}/apply").click().run()
    assert server.client().settings(run.run_id).settings.gamma2 == 0.99


def test_a_stop_whose_answer_is_lost_is_found(
    proxy: Proxy, server: LocalStack, start_run: StartRun, open_page: OpenPage, eventually: Eventually
) -> None:
    run = start_run("stopped")
    page = open_page(run.run_id, at=proxy.server)
    proxy.writes = "cut"
    page.button(key=f"{run.run_id}/stop").click().run()
    until_said(page, "Your change was made as r1.", eventually)
    assert server.client().settings(run.run_id).settings.stop
