"""What a live part of a page last read from the server, so that a server away for a moment does not blank the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from steadynorm_contract.client import Client, ClientError, ServerUnreachable, Unauthorized
from steadynorm_dashboard import session
from steadynorm_dashboard.shared_reads import SharedReads

__all__ = ["read"]

_T = TypeVar("_T")
_SHARED = SharedReads()


def read(
    key: str, ask: Callable[[Client], _T], *, share: str | None = None, still: str | None = None
) -> tuple[_T | None, ClientError | None]:
    """The answer of `ask`; while the server is unreachable the last one under `key`, if any, with the error beside it.

    share: visitors with the same token share one read a moment. It says, with `key`, all of the question.
    still: what is asked for does not change any more: the last answer under `key` is good while this is the same.
    A refused token ends the page's run: the next one asks for another.
    """
    client = session.client()
    if client is None:
        st.rerun()
    place = f"snapshot/{key}"
    held: tuple[str | None, _T] | None = st.session_state.get(place)
    if still is not None and held is not None and held[0] == still:
        return held[1], None
    try:
        whose = (session.identity(), key, share)
        answer = ask(client) if share is None else _SHARED.read(whose, lambda: ask(client))
    except Unauthorized:
        session.forget_token()
        st.rerun()
    except ServerUnreachable as error:
        return (held[1] if held else None), error
    except ClientError as error:
        return None, error
    st.session_state[place] = (still, answer)
    return answer, None
