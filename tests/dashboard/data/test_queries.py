"""Which visitors share an answer."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from steadynorm_contract.client import Client
from steadynorm_dashboard.data import queries, session
from steadynorm_dashboard.data.availability import CircuitBreaker
from steadynorm_dashboard.data.shared_cache import SharedCache


def test_visitors_share_an_answer_only_with_the_same_token_and_request(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = iter(range(10))

    def fetch(token: str, key: str = "run", share: str = "newest") -> int | None:
        client = Client("http://127.0.0.1:9", token)
        monkeypatch.setattr(session, "client", lambda: client)
        monkeypatch.setattr(session, "identity", lambda: (client.server, token))
        monkeypatch.setattr(session, "answers", OrderedDict)  # a new visitor each time
        return queries.fetch(key, lambda _: next(requests), share=share)[0]

    monkeypatch.setattr(
        queries, "breaker", CircuitBreaker()
    )  # others' tests leave that address as one without a server
    monkeypatch.setattr(queries, "shared_cache", SharedCache(clock=lambda: 0.0))
    assert [fetch("operator"), fetch("operator")] == [0, 0]
    assert fetch("viewer") == 1
    assert fetch("operator", key="events") == 2
    assert fetch("operator", share="last 200") == 3
