"""What a visitor sees on a page is in its address: a reload, the back button and a sent link show the same.

    view.open_page({"run": run_id}, PARTS)      # once, at the top of the page
    view.hold("range")                          # before the widget of a part that has a `state`
    view.write()                                # after the widgets, also in fragments: reruns nothing

The address is read when a page is opened, and when it is not the one that this session wrote last: then somebody went
back, or followed a link. Setting the state of a widget reaches the browser with one response only, and is lost if the
next one overtakes it. So it is set again for some seconds (`hold`), or the widget gets a new `key` and starts with
`initial`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import streamlit as st

from steadynorm_dashboard import navigation

_T = TypeVar("_T")
_VIEW = "view/page"
_HOLD_S = 15.0
"""A cold browser draws its first widgets after some seconds."""
_IN_FLIGHT_S = 2.0
"""A request that a browser sent before it got a new address still carries the old one."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a view, of which the address has the values that differ from `default`.

    name: in the address and for `value`. state: key of the session state, where that is not a widget of the view's own.
    decode: from the address; None: not a possible value, so it is ignored.
    """

    name: str
    default: Any
    decode: Callable[[list[str]], Any] = lambda texts: texts[0]
    encode: Callable[[Any], Sequence[str]] = lambda value: [str(value)]
    state: str | None = None


def one_of(options: Sequence[str]) -> Callable[[list[str]], Any]:
    """Decodes a part with few possible values; in the address blanks are dashes."""
    known = {option.replace(" ", "-"): option for option in options}
    return lambda texts: known.get(texts[0])


def dashed(value: str) -> Sequence[str]:
    """Encodes a value of `one_of`."""
    return [value.replace(" ", "-")]


@dataclass(slots=True)
class _View:
    page: navigation.Query
    parts: Mapping[str, Part]
    generation: int
    initial: dict[str, Any]
    written: dict[str, list[str]]
    before: dict[str, list[str]] = field(default_factory=dict)  # what the address was before that
    written_at: float = 0.0
    taken_at: float = field(default_factory=time.monotonic)


def open_page(page: navigation.Query, parts: Sequence[Part]) -> None:
    """Take the view from the address, if it is one that this session did not write."""
    by_name = {part.name: part for part in parts}
    given = {name: texts for name in by_name if (texts := st.query_params.get_all(name))}
    held: _View | None = st.session_state.get(_VIEW)
    if held is not None and dict(held.page) == dict(page) and (given == held.written or is_late(page, given)):
        return
    values = {name: found for name, texts in given.items() if (found := by_name[name].decode(texts)) is not None}
    if held is None and not given:
        st.session_state[_VIEW] = _View(page, by_name, 0, {}, {})
        return
    _show(_View(page, by_name, held.generation + 1 if held else 1, values, given))


def is_late(page: navigation.Query, given: Mapping[str, list[str]]) -> bool:
    """Whether this is the address that the browser had before it got the one that was written last."""
    held: _View | None = st.session_state.get(_VIEW)
    if held is None or dict(held.page) != dict(page) or time.monotonic() - held.written_at >= _IN_FLIGHT_S:
        return False
    return given == held.before != held.written


def close_page() -> None:
    """The page has no view: whoever comes back to one opens it again."""
    held: _View | None = st.session_state.get(_VIEW)
    if held is not None:
        held.page, held.initial = {"": ""}, {}


def reset(values: Mapping[str, Any]) -> None:
    """Show these values, and the defaults of all others."""
    held = _held()
    _show(_View(held.page, held.parts, held.generation + 1, dict(values), held.written, held.before, held.written_at))


def _show(view: _View) -> None:
    st.session_state[_VIEW] = view
    for part in view.parts.values():
        if part.state is not None:
            if part.name in view.initial:
                st.session_state[part.state] = view.initial[part.name]
            else:
                st.session_state.pop(part.state, None)


def hold(*names: str) -> None:
    """Before the widgets of these parts: they show what the address says, also where an earlier response was lost."""
    for name in names:
        if _is_held(name) and (state := key(name)) in st.session_state:
            st.session_state[state] = st.session_state[state]


def default(name: str, usual: _T) -> _T | None:
    """The default of a widget with a `state`: None while its state is held, since a widget takes one or the other."""
    return None if _is_held(name) else usual


def _is_held(name: str) -> bool:
    held: _View | None = st.session_state.get(_VIEW)
    return held is not None and name in held.initial and time.monotonic() - held.taken_at < _HOLD_S


def generation() -> int:
    """How often the view was taken from an address: for keys of widgets that begin anew with it."""
    held: _View | None = st.session_state.get(_VIEW)
    return held.generation if held is not None else 0


def key(name: str) -> str:
    """The key of the part's widget, or of its value."""
    held = _held()
    part = held.parts[name]
    page = "/".join(str(value) for value in held.page.values()) or "fleet"
    return part.state or (f"{page}/{name}/{held.generation}" if held.generation else f"{page}/{name}")


def initial(name: str) -> Any:
    """The value with which the part's widget starts."""
    held = _held()
    return held.initial.get(name, held.parts[name].default)


def value(name: str) -> Any:
    """The present value; before the widget is drawn, the one with which it starts."""
    part = _held().parts[name]
    found = st.session_state.get(key(name))
    if found is not None:
        return found
    return part.default if part.state is not None or key(name) in st.session_state else initial(name)


def write() -> None:
    """Put the present values into the address, if they changed."""
    held = _held()
    now = {
        part.name: list(part.encode(found))
        for part in held.parts.values()
        if (found := value(part.name)) is not None and found != part.default
    }
    navigation.remember(held.page, now)
    if now != held.written:
        held.before, held.written, held.written_at = held.written, now, time.monotonic()
        navigation.write_address({**held.page, **now})


def _held() -> _View:
    view: _View = st.session_state[_VIEW]
    return view
