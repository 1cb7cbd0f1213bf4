"""Who waits for a turn waits while the store answers others, and no longer than it takes to see that it does not."""

from __future__ import annotations

import asyncio
import time

import pytest

from steadynorm_server.redis.limiter import ConcurrencyLimiter

WITHIN_S = 0.6


async def test_a_burst_waits_and_nobody_fails() -> None:
    turns, at_once, most, done = ConcurrencyLimiter(4, WITHIN_S), 0, 0, 0

    async def one() -> None:
        nonlocal at_once, most, done
        async with turns.acquire():
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.1)
            at_once -= 1
            done += 1

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(80)))
    assert (most, done) == (4, 80)
    assert time.monotonic() - began > 3 * WITHIN_S  # longer than a single one may take


@pytest.mark.serial
async def test_a_store_that_hangs_is_seen_by_all_who_wait_at_about_the_same_time() -> None:
    turns = ConcurrencyLimiter(2, WITHIN_S)

    async def one(start_s: float) -> float:
        await asyncio.sleep(start_s)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with turns.acquire() as left_s, asyncio.timeout(left_s):
                await asyncio.Event().wait()
        return time.monotonic() - began

    took = await asyncio.gather(*(one(3 * WITHIN_S * number / 200) for number in range(200)))
    assert max(took) < 1.33 * WITHIN_S  # 2 s where within_s is 1.5; not one pair after another
    async with asyncio.timeout(WITHIN_S), turns.acquire():  # nobody's turn is lost
        pass
    async with asyncio.timeout(WITHIN_S), turns.acquire(), turns.acquire():
        pass


async def test_one_who_gives_up_leaves_the_turn_to_others() -> None:
    turns = ConcurrencyLimiter(1, 10)
    async with turns.acquire():
        waiting = [asyncio.create_task(turns.acquire().__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(1), turns.acquire():
        pass
