"""A timer's message waits while what its page watches stands still, and everything else passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from starlette.types import Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from steadynorm_dashboard.components import quiet_timers
from steadynorm_dashboard.components.changed_elements import UNCHANGED
from steadynorm_dashboard.components.quiet_timers import CONNECTION, QuietTimers, Seen, hide, touch, watch

Test = Callable[["Visitor"], Awaitable[None]]


def message(text: str, *, timer: bool = True, fragment: str = "charts") -> Message:
    """What the browser sends: from the timer of a fragment, or of what a visitor did."""
    sent = BackMsg()
    sent.rerun_script.is_auto_rerun = timer
    sent.rerun_script.fragment_id = fragment
    sent.rerun_script.query_string = text
    return {"type": "websocket.receive", "bytes": sent.SerializeToString()}


class Clock:
    """Set by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Visitor:
    """A connection, what the application got of it, and the data that its page watches."""

    clock: Clock
    headers: dict[str, str] = field(default_factory=dict)
    data: object = 0
    numbers: object = 0  # of the data, what goes on by itself
    unchanged: set[str] = field(default_factory=set)
    polls: int = 0
    sent: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    got: list[str] = field(default_factory=list)
    answer: Send | None = None

    def watch(self) -> None:
        def poll() -> Seen:
            self.polls += 1
            if isinstance(self.data, Exception):
                raise self.data
            return Seen(self.numbers, self.data)

        watch(self.headers, "run/one", poll)

    async def send(self, text: str, after_s: float = 0.0, **about: bool | str) -> list[str]:
        """Send a message some seconds later; what the application has got once all of it is done."""
        self.clock.now += after_s
        await self.sent.put(message(text, **about))  # type: ignore[arg-type]  # of the fields above
        for _ in range(20):  # more turns than any of the tasks takes, see `visit`
            await asyncio.sleep(0)
        got, self.got = self.got, []
        return got

    async def refreshed(self, took_s: float, fragment: str = "charts") -> None:
        """The application ends a refresh, so long after its timer's message."""
        self.clock.now += took_s
        ended = ForwardMsg(script_finished=ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)
        ended.metadata.run.fragment_ids.append(fragment)
        assert self.answer is not None
        await self.answer({"type": "websocket.send", "bytes": ended.SerializeToString()})


@pytest.fixture
def visit(monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], None]:
    """visit(test): runs a coroutine with a visitor."""
    clock = Clock()
    monkeypatch.setattr(quiet_timers, "_clock", clock)

    async def at_once(poll: Callable[[], object]) -> object:
        return poll()

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # so that a number of turns is enough

    @asynccontextmanager
    async def connected() -> AsyncIterator[Visitor]:
        visitor = Visitor(clock)
        entered = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            visitor.answer = send
            visitor.headers = {CONNECTION: ",".join(value.decode() for _, value in scope["headers"])}
            entered.set()
            while (one := await receive())["type"] != "websocket.disconnect":
                visitor.got.append(BackMsg.FromString(one["bytes"]).rerun_script.query_string)

        async def answered(_message: Message) -> None:
            pass

        forged = [(CONNECTION.lower().encode(), b"another visitor's")]
        serving = asyncio.create_task(
            QuietTimers(app)(
                {"type": "websocket", "headers": forged, UNCHANGED: visitor.unchanged}, visitor.sent.get, answered
            )
        )
        await entered.wait()
        assert "another visitor's" not in visitor.headers[CONNECTION]
        yield visitor
        await visitor.sent.put({"type": "websocket.disconnect", "code": 1000})
        await serving

    def run(test: Test) -> None:
        async def all_of_it() -> None:
            async with connected() as visitor:
                await test(visitor)

        asyncio.run(all_of_it())
        assert quiet_timers._pages == {}

    return run


async def still(visitor: Visitor) -> None:
    """Watches data that have not changed for a minute; all parts were just drawn."""
    visitor.watch()
    await visitor.send("first")
    visitor.clock.now += 60.0
    for fragment in ("header", "map", "charts"):
        assert await visitor.send("again", fragment=fragment) == ["again"]


def test_timers_of_a_page_that_watches_nothing_pass(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        for text in ("one", "two", "three"):
            assert await visitor.send(text, 100.0) == [text]

    visit(test)


def test_a_timer_waits_for_a_change_and_is_delivered_at_once_when_there_is_one(
    visit: Callable[[Test], None],
) -> None:
    async def test(visitor: Visitor) -> None:
        await still(visitor)
        assert await visitor.send("nothing new", 1.0) == []
        visitor.data = 1
        assert await visitor.send("new", 1.0) == ["new"]
        for text in ("settling", "settled"):  # once more after what a cache may have answered
            assert await visitor.send(text, 2.0) == [text]
        assert await visitor.send("nothing new", 2.0) == []
        visitor.data = 2
        # With it goes what was held for the charts.
        assert set(await visitor.send("of another part", 1.0, fragment="header")) == {"of another part", "nothing new"}

    visit(test)


def test_while_data_change_every_timer_passes_and_a_second_has_one_look(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        visitor.watch()
        for second in range(20):
            visitor.data = second
            for fragment in ("charts", "header"):
                assert await visitor.send(f"{second}", 0.5, fragment=fragment) == [f"{second}"]
        assert visitor.polls == 20

    visit(test)


def test_words_about_time_are_drawn_the_more_rarely_the_older_the_data_are(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        visitor.watch()
        drawn = [second for second in range(300) if await visitor.send("tick", 1.0)]
        pauses = [later - earlier for earlier, later in pairwise(drawn)]
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (1, 30)
        assert len(drawn) < 25

    visit(test)


def test_what_stays_the_same_while_numbers_go_on_waits_for_a_change_of_all_else(
    visit: Callable[[Test], None],
) -> None:
    async def test(visitor: Visitor) -> None:
        async def second(fragment: str) -> bool:
            """Whether a fragment is drawn in a second in which the run took a step."""
            visitor.numbers = visitor.clock.now
            (visitor.unchanged.add if fragment == "menu" else visitor.unchanged.discard)(fragment)
            drawn = await visitor.send("tick", 0.5, fragment=fragment) == ["tick"]
            if drawn:
                await visitor.refreshed(0.0, fragment)
            return drawn

        visitor.watch()
        drawn = [(await second("charts"), await second("menu")) for _ in range(60)]
        assert all(charts for charts, _ in drawn)
        pauses = [later - earlier for earlier, later in pairwise(at for at, (_, menu) in enumerate(drawn) if menu)]
        assert pauses[:3] == [1, 1, 1]
        assert set(pauses[6:]) == {5}
        visitor.data = "another state"
        assert await second("menu"), "what is held goes with the change"

    visit(test)


def test_a_chart_of_a_slow_run_is_drawn_with_each_step(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        visitor.watch()
        for step in range(8):
            visitor.numbers = step
            news = True
            for second in range(20):
                drawn = await visitor.send("tick", 1.0) == ["tick"]
                if drawn:
                    (visitor.unchanged.discard if news else visitor.unchanged.add)("charts")
                    await visitor.refreshed(0.0)
                    assert second == 0 or not news
                    news = False
            assert not news

    visit(test)


def test_what_a_visitor_does_passes_with_all_timers_after_it_and_no_older_message(
    visit: Callable[[Test], None],
) -> None:
    async def test(visitor: Visitor) -> None:
        await still(visitor)
        assert await visitor.send("held", 1.0) == []
        visitor.data = 1  # would release it, with the widgets as they were before the click
        assert await visitor.send("click", 1.0, timer=False) == ["click"]
        assert await visitor.send("after it", 5.0) == ["after it"]
        await still(visitor)
        assert await visitor.send("held", 1.0) == []
        touch(visitor.headers)
        assert await visitor.send("awaits an answer", 1.0) == ["awaits an answer"]

    visit(test)


def test_a_refresh_that_takes_long_is_made_the_more_rarely_until_it_is_quick_again(
    visit: Callable[[Test], None],
) -> None:
    async def test(visitor: Visitor) -> None:
        async def pause(took_s: float) -> int:
            """Ticks of a timer of a second until the next refresh, which takes so long."""
            await visitor.refreshed(took_s)
            visitor.clock.now += 1.0 - took_s % 1.0
            ticks = 1 + int(took_s)
            while not await visitor.send("tick"):
                visitor.clock.now += 1.0
                ticks += 1
            return ticks

        visitor.watch()
        assert await visitor.send("tick")
        for took_s, ticks in ((0.05, 1), (0.15, 1), (0.3, 2), (0.7, 4), (3.0, 7), (0.3, 2), (0.05, 1), (0.05, 1)):
            visitor.data = took_s, visitor.clock.now
            assert await pause(took_s) == ticks

    visit(test)


def test_refreshes_yield_each_for_itself_and_never_to_what_a_visitor_does(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        assert await visitor.send("charts")
        await visitor.refreshed(0.9)
        assert await visitor.send("charts", 0.1) == []
        assert await visitor.send("header", fragment="header") == ["header"]
        assert await visitor.send("click", timer=False) == ["click"]
        assert await visitor.send("what came of it", 0.1) == ["what came of it"]

    visit(test)


def test_a_page_in_a_background_tab_is_refreshed_for_its_title_alone(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        visitor.watch()
        assert await visitor.send("seen") == ["seen"]
        hide(visitor.headers, True)
        assert await visitor.send("hides", timer=False) == ["hides"]
        drawn = 0
        for second in range(120):
            visitor.data = second
            drawn += len(await visitor.send("tick", 1.0))
        assert drawn == 4
        hide(visitor.headers, False)
        assert await visitor.send("is back", timer=False) == ["is back"]
        assert await visitor.send("tick", 1.0) == ["tick"]

    visit(test)


def test_an_old_message_is_not_delivered_late(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        await still(visitor)
        assert await visitor.send("old", 1.0, fragment="map") == []
        visitor.data = 1
        assert await visitor.send("new", 4.0) == ["new"]

    visit(test)


def test_a_server_that_fails_is_news_each_time(visit: Callable[[Test], None]) -> None:
    async def test(visitor: Visitor) -> None:
        await still(visitor)
        visitor.data = OSError("away")
        for _ in range(10):
            assert await visitor.send("shows the error", 1.0) == ["shows the error"]
        visitor.data = 0
        assert await visitor.send("is back", 1.0) == ["is back"]

    visit(test)


def test_a_connection_that_breaks_ends_the_application() -> None:
    told: list[Message] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        told.append(await receive())

    async def broken() -> Message:
        raise ConnectionError("gone")

    async def send(_message: Message) -> None:
        raise AssertionError

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(asyncio.wait_for(QuietTimers(app)({"type": "websocket", "headers": []}, broken, send), 5.0))
    assert told == [{"type": "websocket.disconnect", "code": 1011}]
    assert quiet_timers._pages == {}
