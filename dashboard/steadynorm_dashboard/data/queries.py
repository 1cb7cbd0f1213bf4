"""What a live part of a page last read from the server, so that a server away for a moment does not blank the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import streamlit as st

from steadynorm_contract.client import Client, ClientError, ServerUnreachable, Unauthorized
from steadynorm_dashboard.data import session
from steadynorm_dashboard.data.availability import ABSENCE
from steadynorm_dashboard.data.shared_cache import SharedReads

__all__ = ["read"]

_T = TypeVar("_T")
_SHARED = SharedReads()
_KEPT = 64
"""Answers of a session: more than any page draws at once, and no more memory however long one looks around."""


def read(
    key: str, ask: Callable[[Client], _T], *, share: str | None = None, still: str | None = None
) -> tuple[_T | None, ClientError | None]:
    """The answer of `ask`; while the server is unreachable the last one under `key`, if any, with the error beside it.

    share: visitors with the same token share one read a moment. It says, with `key`, all of the question.
    still: what is asked for does not change any more: the last answer under `key` is good while this is the same.
    A refused token ends the page's run: the next one asks for another. A server that is away is not waited for.
    """
    client = session.client()
    if client is None:
        st.rerun()
    seen = session.seen()
    held = cast("tuple[str | None, _T] | None", seen.get(key))
    if held is not None:
        seen.move_to_end(key)
        if still is not None and held[0] == still:
            return held[1], None
    last = held[1] if held is not None else None
    if (away := ABSENCE.of(client.server)) is not None:
        return last, away
    try:
        whose = (session.identity(), key, share)
        answer = ask(client) if share is None else _SHARED.read(whose, lambda: ask(client))
    except Unauthorized:
        session.forget_token()
        st.rerun()
    except ServerUnreachable as error:
        ABSENCE.begin(client, error)
        return last, error
    except ClientError as error:
        return None, error
    seen[key] = (still, answer)
    seen.move_to_end(key)
    while len(seen) > _KEPT:
        seen.popitem(last=False)
    return answer, None
