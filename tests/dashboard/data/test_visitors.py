"""Who looks at the dashboard: signed in by link or box, viewer or operator, gone again, or before a server away."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import streamlit.config
from streamlit.runtime.fragment import MemoryFragmentStorage
from streamlit.testing.v1 import AppTest

from steadynorm_cli.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.support.dashboard import OpenPage, StartRun
    from tests.support.waiting import Eventually

OPERATOR, VIEWER = "operator-token-for-tests", "viewer-token-for-tests"
LOCKED = "You are signed in as viewer, which has read-only access. Ask for an operator token to change settings."


@pytest.fixture
def visit(open_page: OpenPage) -> OpenPage:
    """visit("run's id", token="…", at="http://…", parameter="…") -> the app after its first run."""
    return open_page


def said(app: AppTest) -> str:
    """Everything that the page says in words, as it was handed to Markdown."""
    kinds = (app.title, app.header, app.markdown, app.caption, app.text, app.error, app.warning, app.info, app.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def says(app: AppTest, words: str) -> bool:
    """Whether the page says so when it is drawn again."""
    return words in said(app.run())


def plain(app: AppTest) -> str:
    """The same without escapes."""
    return said(app).replace("\\", "").replace("\u2060", "")


def test_an_unreachable_server_is_named_with_what_to_do(visit: OpenPage) -> None:
    page = visit(at="http://127.0.0.1:9")
    assert "No steadynorm server answers at http://127.0.0.1:9" in plain(page)
    assert "steadynorm up" in said(page)


def test_a_visitor_without_a_token_signs_in(visit: OpenPage, start_run: StartRun) -> None:
    run = start_run("behind a door")
    page = visit(run.run_id, token=None)
    assert "Sign in" in said(page)
    assert "behind a door" not in plain(page)
    for wrong in ("wrong", f"\u200b{OPERATOR}"):  # the latter as it is copied from some pages
        page.text_input[0].set_value(wrong)
        page.button[0].click().run()
        assert "does not accept this token" in said(page)
    page.text_input[0].set_value(OPERATOR)
    page.button[0].click().run()
    assert "behind a door" in plain(page)


def test_a_token_in_the_link_moves_into_the_session(visit: OpenPage) -> None:
    page = visit()
    assert "token" not in page.query_params
    assert "Runs overview" in [title.value for title in page.title]


def test_a_loopback_dashboard_that_asks_nobody_lends_the_users_own_token_and_an_open_one_does_not(
    visit: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEADYNORM_DASHBOARD_SIGN_IN", "never")
    (tmp_path / "token").write_text(OPERATOR)
    before = streamlit.config.get_option("server.address")
    try:
        streamlit.config.set_option("server.address", "127.0.0.1")
        assert "Sign in" not in said(visit(token=None))
        streamlit.config.set_option("server.address", "0.0.0.0")
        assert "Sign in" in said(visit(token=None))
    finally:
        streamlit.config.set_option("server.address", before)


def test_a_viewer_is_told_that_only_operators_change_settings(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("looked at")
    server.client().change(run.run_id, {"gamma2": 0.99}, revision=0)
    page = visit(run.run_id, token=VIEWER, tab="Changes")
    # The panel, the notes, and the undo beneath the list of changes: all say so before anything is tried.
    assert [info.value for info in page.info].count(LOCKED) == 3
    names = {"gamma1", "gamma2", "lr_scale", "eps", "spike_limit ratio", "clip_norm"}
    assert {number.label for number in page.number_input if number.disabled} == names
    assert all(page.segmented_control(key=f"{run.run_id}/{name}/input/0").disabled for name in ("mode", "transfer"))
    assert page.selectbox(key=f"{run.run_id}/undo/revision/1").disabled
    assert all(
        page.button(key=f"{run.run_id}/{name}").disabled for name in ("apply", "reset", "preview/open", "undo/go")
    )
    assert "**viewer** has read-only access" in said(page)


def test_an_operators_changes_stand_under_the_name_that_the_page_shows(
    visit: OpenPage, start_run: StartRun, server: LocalStack
) -> None:
    run = start_run("named")
    page = visit(run.run_id)
    assert "**operator** can change settings" in said(page)
    page.button(key=f"{run.run_id}/reset").click().run()
    assert server.client().audit(run.run_id).entries[0].actor == "operator"


def test_who_signs_out_leaves_nothing_behind(visit: OpenPage, start_run: StartRun) -> None:
    page = visit(start_run("gone with them").run_id)
    next(button for button in page.button if button.label == "Sign out").click().run()
    assert "Sign in" in said(page)
    assert "gone with them" not in plain(page)
    page.text_input[0].set_value(VIEWER)
    page.button[0].click().run()
    assert "**viewer** has read-only access" in said(page)


def test_after_signing_out_no_part_of_the_page_before_can_be_drawn(
    visit: OpenPage, start_run: StartRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(start_run("left").run_id)
    remaining: list[frozenset[str] | None] = []
    monkeypatch.setattr(MemoryFragmentStorage, "clear", lambda _, new_fragment_ids: remaining.append(new_fragment_ids))
    next(button for button in page.button if button.label == "Sign out").click().run()
    assert remaining == [frozenset()]


def test_without_its_server_the_last_numbers_stay_and_a_new_page_says_what_to_do(
    visit: OpenPage, start_run: StartRun, own_server: LocalStack, eventually: Eventually
) -> None:
    run_id = start_run("left alone", own_server).run_id
    page, fleet = visit(run_id, at=own_server.server), visit(at=own_server.server)
    before = {metric.label: metric.value for metric in page.metric}
    own_server.close()
    for opened in (page, fleet):
        # Visitors share what was read a moment ago.
        eventually(partial(says, opened, "The server does not answer: this is the last known data."))
        assert not opened.exception
    assert {metric.label: metric.value for metric in page.metric} == before
    assert [row["id"] for row in msgspec.json.decode(fleet.get("bidi_component")[-1].proto.json)["rows"]] == [run_id]
    for query in ({}, {"parameter": "head.weight"}, {"incident": "1-0"}, {"change": "1"}):
        late = visit(run_id, at=own_server.server, **query)
        assert "No steadynorm server answers at" in said(late), query
        assert "steadynorm up" in said(late), query


def test_a_server_that_is_not_there_is_not_told_as_one_that_wants_a_token(visit: OpenPage) -> None:
    page = visit(token=None, at="http://127.0.0.1:9")
    assert not page.text_input
    assert "No steadynorm server answers at" in str(page.error[0].value)
