"""Of a timer's refresh the browser gets the elements that changed; everything else passes as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_cache import create_reference_msg, populate_hash_if_needed

from steadynorm_dashboard.components.changed_elements import UNCHANGED, ChangedElements

Status = ForwardMsg.ScriptFinishedStatus
HEAD, CHARTS = (0, 0), (0, 1)
"""Where the elements of the two fragments are."""


def message(**parts: Any) -> ForwardMsg:
    """With a hash, as Streamlit sends it."""
    sent = ForwardMsg(**parts)
    populate_hash_if_needed(sent)
    return sent


def text(place: Sequence[int], body: str, *, cacheable: bool = False) -> ForwardMsg:
    """An element."""
    sent = message(delta={"new_element": {"markdown": {"body": body}}})
    sent.metadata.delta_path.extend(place)
    sent.metadata.cacheable = cacheable
    return sent


def block(place: Sequence[int], label: str = "") -> ForwardMsg:
    """A container."""
    sent = message(delta={"add_block": {"expandable": {"label": label}}})
    sent.metadata.delta_path.extend(place)
    return sent


def slider(place: Sequence[int], *, set_value: bool) -> ForwardMsg:
    """A widget."""
    sent = message(delta={"new_element": {"slider": {"id": "smoothing", "set_value": set_value}}})
    sent.metadata.delta_path.extend(place)
    return sent


def run(
    *elements: ForwardMsg, fragments: Sequence[str] = (), ends: int = Status.FINISHED_FRAGMENT_RUN_SUCCESSFULLY
) -> list[ForwardMsg]:
    """A run of these fragments; without any, of the whole page."""
    began = message(new_session={"name": "app"})
    began.metadata.run.fragment_ids.extend(fragments)
    running, still = (message(session_status_changed={"script_is_running": on}) for on in (True, False))
    ended = message(script_finished=ends if fragments else Status.FINISHED_SUCCESSFULLY)
    return [began, running, *elements, ended, still]


def head(*bodies: str, **how: Any) -> list[ForwardMsg]:
    """A run of one fragment, with these texts."""
    texts = [text((*HEAD, at), body) for at, body in enumerate(bodies)]
    return run(block(HEAD), *texts, fragments=["head"], **how)


def page(*bodies: str) -> list[ForwardMsg]:
    """A run of the whole page, with these texts in the fragment."""
    return run(block(HEAD), *[text((*HEAD, at), body) for at, body in enumerate(bodies)], block(CHARTS))


def asked(fragment: str, *, timer: bool = False) -> bytes:
    """What the browser sends when a visitor uses a widget of the fragment."""
    sent = BackMsg()
    sent.rerun_script.fragment_id = fragment
    sent.rerun_script.is_auto_rerun = timer
    return bytes(sent.SerializeToString())


def received(*sent: list[ForwardMsg] | bytes) -> list[list[ForwardMsg]]:
    """What the browser gets of each run. Bytes are what it sends in between."""
    got: list[list[ForwardMsg]] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        for each in sent:
            if isinstance(each, bytes):
                assert await receive() == {"type": "websocket.receive", "bytes": each}
                continue
            got.append([])
            for one in each:
                await send({"type": "websocket.send", "bytes": one.SerializeToString()})

    asking = iter(each for each in sent if isinstance(each, bytes))

    async def receive() -> Message:
        return {"type": "websocket.receive", "bytes": next(asking)}

    async def send(one: Message) -> None:
        got[-1].append(ForwardMsg.FromString(one["bytes"]))

    asyncio.run(ChangedElements(app)({"type": "websocket"}, receive, send))
    return got


def test_a_refresh_with_nothing_new_sends_nothing_and_one_with_news_only_these() -> None:
    *_, first, second = received(page("run", "step 1"), head("run", "step 1"), head("run", "step 2"))
    assert first == []
    assert second == [text((*HEAD, 1), "step 2")]
    *_, third = received(page("a", "b"), head("c", "b"), head("c", "b"), head("a", "b"))
    assert third == [text((*HEAD, 0), "a")]  # it is compared with what was sent last


def test_which_fragments_refresh_brought_nothing_new_is_known_within() -> None:
    known: list[set[str]] = []

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        refreshes = (page("a"), head("a"), head("a"), head("b"), head("b"), head("b", "c"), head("b", "c"))
        for each in refreshes:
            for one in each:
                await send({"type": "websocket.send", "bytes": one.SerializeToString()})
            known.append(set(scope[UNCHANGED]))

    async def send(_one: Message) -> None:
        pass

    async def receive() -> Message:
        raise AssertionError

    asyncio.run(ChangedElements(app)({"type": "websocket"}, receive, send))
    assert known == [set(), {"head"}, {"head"}, set(), {"head"}, set(), {"head"}]


def test_a_refresh_with_more_or_fewer_elements_passes_whole() -> None:
    for before, after in ((["a"], ["a", "b"]), (["a", "b"], ["a"])):
        _, changed, again = received(page(*before), head(*after), head(*after))
        assert changed == head(*after)
        assert again == []


def test_a_container_that_changes_passes_with_all_that_is_in_it() -> None:
    other = run(block(HEAD, "other"), text((*HEAD, 0), "a"), fragments=["head"])
    assert received(page("a"), other)[-1] == other


def test_the_same_place_twice_in_a_refresh_passes_whole() -> None:
    twice = run(block(HEAD), text((*HEAD, 0), "waits"), text((*HEAD, 0), "a"), fragments=["head"])
    assert received(page("a"), twice)[-1] == twice


def test_what_a_visitor_asked_for_passes_at_once_and_what_timers_ask_after_it_does_not() -> None:
    own = head("a")
    *_, first, second = received(page("a"), asked("head"), own, asked("head", timer=True), head("a"))
    assert first == own
    assert second == []
    assert received(page("a"), asked("charts"), head("a"))[-1] == []  # of another fragment


def test_a_whole_page_passes_and_is_what_refreshes_are_compared_with() -> None:
    whole = page("a", "b")
    _, got, refresh = received(page("z"), whole, head("a", "b"))
    assert got == whole
    assert refresh == []


def test_a_run_that_another_one_ends_passes_and_leaves_elements_that_are_taken_away_later() -> None:
    cut = head("new", ends=Status.FINISHED_EARLY_FOR_RERUN)
    _, first, second = received(page("a", "b"), cut, head("new"))
    assert first == cut
    assert second == head("new")  # the browser still had the second element


def test_a_whole_refresh_before_another_one_is_compared_too() -> None:
    early = {"ends": Status.FINISHED_EARLY_FOR_RERUN}
    assert received(page("a", "b"), head("a", "c", **early))[-1] == [text((*HEAD, 1), "c")]


def test_two_fragments_in_one_run() -> None:
    whole = run(block(HEAD), text((*HEAD, 0), "a"), block(CHARTS), text((*CHARTS, 0), "chart 1"))
    both = run(
        *(block(HEAD), text((*HEAD, 0), "a"), block(CHARTS), text((*CHARTS, 0), "chart 2")),
        fragments=["head", "charts"],
    )
    assert received(whole, both)[-1] == [text((*CHARTS, 0), "chart 2")]


def test_a_value_that_is_set_is_always_sent() -> None:
    def refresh(*, set_value: bool) -> list[ForwardMsg]:
        return run(block(HEAD), slider((*HEAD, 0), set_value=set_value), fragments=["head"])

    for set_value in (True, False):
        sends = [slider((*HEAD, 0), set_value=True)] if set_value else []
        first, same = refresh(set_value=set_value), refresh(set_value=set_value)
        assert received(page("a"), first, same)[-1] == sends


def test_an_element_of_the_browsers_cache_is_the_one_that_it_stands_for() -> None:
    def cached(body: str) -> list[ForwardMsg]:
        return run(block(HEAD), create_reference_msg(text((*HEAD, 0), body)), fragments=["head"])

    reference = cached("b")[3]
    assert received(page("a"), cached("a"), cached("b"), cached("b"))[1:] == [[], [reference], []]


def test_a_changed_element_alone_is_not_kept_in_a_cache_that_only_the_end_of_a_run_empties() -> None:
    big = run(block(HEAD), text((*HEAD, 0), "b", cacheable=True), fragments=["head"])
    (sent,) = received(page("a"), big)[-1]
    assert not sent.metadata.cacheable
    assert sent == text((*HEAD, 0), "b")


def test_messages_that_are_no_elements_pass_in_their_order() -> None:
    title = message(page_config_changed={"title": "spiking"})
    refresh = head("b")
    refresh.insert(2, title)
    assert received(page("a"), refresh)[-1] == [title, text((*HEAD, 0), "b")]


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "websocket.accept"},
        {"type": "websocket.send", "bytes": b"\xff no message"},
        {"type": "websocket.send", "text": "pong"},
        {"type": "websocket.close", "code": 1000},
    ],
)
def test_everything_else_passes_untouched(odd: Message) -> None:
    got: list[Message] = []

    def app(kind: str) -> Callable[[], Any]:
        async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
            assert (await receive())["bytes"] == b"\xff no message"
            await send(odd)

        async def receive() -> Message:
            return {"type": "websocket.receive", "bytes": b"\xff no message"}

        async def send(one: Message) -> None:
            got.append(one)

        return lambda: ChangedElements(answer)({"type": kind}, receive, send)

    for kind in ("websocket", "http"):
        asyncio.run(app(kind)())
    assert got == [odd, odd]
