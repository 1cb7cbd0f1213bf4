"""What a live part of a page last read from the server, so that a server away for a moment does not blank the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import streamlit as st

from steadynorm_contract.client import Client, ClientError, ServerUnreachable, Unauthorized
from steadynorm_dashboard import session

__all__ = ["read"]

_T = TypeVar("_T")


def read(key: str, ask: Callable[[Client], _T]) -> tuple[_T | None, ClientError | None]:
    """The answer of `ask`; while the server is unreachable the last one under `key`, if any, with the error beside it.

    A refused token ends the page's run: the next one asks for another.
    """
    client = session.client()
    if client is None:
        st.rerun()
    try:
        answer = ask(client)
    except Unauthorized:
        session.forget_token()
        st.rerun()
    except ServerUnreachable as error:
        return cast("_T | None", st.session_state.get(f"snapshot/{key}")), error
    except ClientError as error:
        return None, error
    st.session_state[f"snapshot/{key}"] = answer
    return answer, None
