"""Of all processes one sends a message: a hanging one delays nothing, and its claim is taken over when it expires."""

from __future__ import annotations

from typing import Any

from tests.support.webhooks import hanging, until


async def test_a_process_that_hangs_while_it_appends_holds_no_event_back_and_appends_none_twice(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    slow = await send(webhook())
    other = await send(webhook())
    with hanging(slow, "webhook_append") as (resume, calls):
        await agent.send([1], nonfinite=1)
        slow.repository.dirty_runs.mark("tiny-1")  # as the process that stored it does
        await until(lambda: calls["webhook_append"] > 0)
        assert [event.step for event in (await receiver.next()).message.events] == [1]
        await until(lambda: other.count("delivered") + slow.count("delivered") == 1)  # either may send it
        resume.set()
        await agent.send([5], nonfinite=1)
        assert [event.step for event in (await receiver.next()).message.events] == [5]
    await until(lambda: other.count("delivered") + slow.count("delivered") == 2)
    assert receiver.posts.empty()


async def test_a_claim_that_expired_is_taken_over_and_its_first_holder_changes_nothing(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    receiver.responses = [500]
    holder = await send(webhook(timeout_s=0.5), claim_margin_s=0.5)
    with hanging(holder, "webhook_outcome") as (resume, calls):
        await agent.send([1], nonfinite=1)
        first = await receiver.next()
        await until(lambda: calls["webhook_outcome"] > 0)  # it failed, and nobody learns of it
        other = await send(webhook(timeout_s=0.5), claim_margin_s=0.5)
        await agent.send([5], nonfinite=1)
        second = await receiver.next()
        assert (second.id, second.body) == (first.id, first.body)
        assert second.at - first.at > 0.7  # not before the claim expired: then only one of the two sends it
        assert [event.step for event in (await receiver.next()).message.events] == [5]
        await other.counts("delivered", 2)
        resume.set()
        await agent.send([9], nonfinite=1)
        assert [event.step for event in (await receiver.next()).message.events] == [9]  # and neither one again
    assert holder.count("retried") == 1


async def test_attempts_of_all_holders_count_towards_the_limit(
    send: Any, webhook: Any, receiver: Any, agent: Any
) -> None:
    receiver.responses = [500, 500, 500]
    first = await send(webhook(), max_attempts=3, retry_s=4)  # 2 s at least: it is stopped before its second attempt
    await agent.send([1], nonfinite=1)
    await first.counts("retried", 1)
    await first.stop()
    second = await send(webhook(), max_attempts=3, retry_s=0.3)
    await second.counts("dead", 1)
    assert (first.count("retried"), second.count("retried")) == (1, 1)
    assert len({(await receiver.next()).id for _ in range(3)}) == 1
