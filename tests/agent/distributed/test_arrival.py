"""Ranks that come to attach() with different pasts: one has trained in this process before, the other is new."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from steadynorm.distributed import arrival


def arrive(stores: dict[int, HashStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks that have a store here call attach()."""
    here = threading.local()
    monkeypatch.setattr(dist, "get_rank", lambda: here.rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: len(stores))
    monkeypatch.setattr(arrival, "ranks_store", lambda: stores[here.rank])

    def attach(rank: int) -> None:
        here.rank = rank
        arrival.tell_who_is_awaited()

    calls = [threading.Thread(target=attach, args=(rank,), daemon=True) for rank in stores]
    for call in calls:
        call.start()
    for call in calls:
        call.join(60)
        assert not call.is_alive()


def test_a_rank_that_is_new_finds_those_that_have_trained_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(arrival, "TELL_AFTER", timedelta(seconds=20))
    for _ in range(3):
        arrive({0: HashStore()}, monkeypatch)
    store = HashStore()
    for _ in range(3):
        arrive({0: store, 1: store}, monkeypatch)
    assert caplog.messages == []


def test_a_rank_that_does_not_come_is_named_at_its_second_attach_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = HashStore()
    arrive({0: store, 1: store}, monkeypatch)
    monkeypatch.setattr(arrival, "TELL_AFTER", timedelta(seconds=0.05))
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(arrival, "ranks_store", lambda: store)
    arrival.tell_who_is_awaited()
    assert [message.partition(",")[0] for message in caplog.messages] == ["attach() waits for rank 1 of 2"]
