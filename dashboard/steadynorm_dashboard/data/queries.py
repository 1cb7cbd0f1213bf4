"""Reads from the server. The last answer stays available while the server is away, so that no page goes blank."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import streamlit as st

from steadynorm_contract.client import Client, ClientError, ServerUnreachable, Unauthorized
from steadynorm_dashboard.data import session
from steadynorm_dashboard.data.availability import breaker
from steadynorm_dashboard.data.shared_cache import shared_cache

_T = TypeVar("_T")
_MAX_ANSWERS = 64
"""Answers stored per session: more than any page draws at once."""


def reader(key: str, request: Callable[[Client], _T], *, share: str | None = None) -> Callable[[], _T] | None:
    """What asks as `fetch` does with these arguments, in any thread, with the token in use now; None: there is none.

    Its answer is not stored for the visitor. It raises ClientError.
    """
    client = session.client()
    if client is None:
        return None
    ask = partial(breaker.call, client, request)
    return ask if share is None else partial(shared_cache.read, (session.identity(), key, share), ask)


def fetch(
    key: str, request: Callable[[Client], _T], *, share: str | None = None, immutable: str | None = None
) -> tuple[_T | None, ClientError | None]:
    """The answer to `request`; while the server is unreachable the last one under `key`, if any, and the error.

    share: visitors with the same token share an answer for a moment. Together with `key` it identifies the request.
    immutable: the answer does not change any more; the last one under `key` is used while this value is the same.
    A refused token reruns the page, which then shows the sign-in form.
    """
    client = session.client()
    if client is None:
        st.rerun()
    answers = session.answers()
    stored = cast("tuple[str | None, _T] | None", answers.get(key))
    if stored is not None:
        answers.move_to_end(key)
        if immutable is not None and stored[0] == immutable:
            return stored[1], None
    ask = partial(breaker.call, client, request)
    try:
        answer = ask() if share is None else shared_cache.read((session.identity(), key, share), ask)
    except Unauthorized:
        session.forget_token()
        st.rerun()
    except ServerUnreachable as error:
        return stored[1] if stored is not None else None, error
    except ClientError as error:
        return None, error
    answers[key] = (immutable, answer)
    answers.move_to_end(key)
    while len(answers) > _MAX_ANSWERS:
        answers.popitem(last=False)
    return answer, None
