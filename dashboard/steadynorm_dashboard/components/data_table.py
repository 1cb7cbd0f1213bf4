"""Rows as an HTML table, updated in place: with links, sortable, readable by screen readers and the browser's search.

`st.dataframe` draws on a canvas, in which the keyboard cannot reach a link: with its selection as the link, moving the
focus through the table left the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st

from steadynorm_dashboard import navigation
from steadynorm_dashboard.components import files
from steadynorm_dashboard.formatting import numbers

Query = Mapping[str, str]
"""A page, as in `navigation.link`."""

PAGE_ROWS = 100
"""Rows that are drawn at first: a browser lays out thousands in seconds, and again at each refresh."""


def data_table(
    rows: Sequence[Mapping[str, object]],
    *,
    key: str,
    name: str,
    links: Sequence[Query] = (),
    linked: str = "",
    help: Mapping[str, str] | None = None,  # noqa: A002
    sortable: Sequence[str] = (),
) -> None:
    """Draw `rows`, which all have the same keys: the titles of the columns. Opens the page of a link that is clicked.

    Args:
        rows: Text, numbers, and None where there is no value. Text is not escaped.
        key: Of the session state.
        name: What the table shows, for screen readers.
        links: The page that each row leads to.
        linked: The title of the column with the link. Empty: the first one.
        help: What a column shows, by its title.
        sortable: Titles of the columns that can be sorted by.
    """
    state = st.session_state.get(f"{key}/table") or {}
    if isinstance(opened := state.get("opened"), dict):
        navigation.open_page(**{str(part): str(value) for part, value in opened.items()})
    if not rows:
        return
    titles = list(rows[0])
    order, sort = list(range(len(rows))), None
    if sortable:
        sort = _sort(f"{key}/sort", state.get("sorted"), sortable)
        order = _sorted(rows, sort)
    limit = st.session_state.get(f"{key}/rows", PAGE_ROWS)
    keys = _keys(links) if links else [str(at) for at in range(len(rows))]
    write = {title: _writer([row[title] for row in rows]) for title in titles}
    component = st.components.v2.component(
        "steadynorm_table",
        html='<div class="steadynorm-table"></div>',
        css=files.text("data_table.css"),
        js=files.text("dom.js", "data_table.js"),
        isolate_styles=False,  # in a shadow root a link has no focus that the page's scripts and tests can see
    )
    component(
        key=f"{key}/table",
        data={
            "name": name,
            "columns": [
                {
                    "title": title,
                    "help": (help or {}).get(title, ""),
                    "number": _is_number(rows, title),
                    "sortable": title in sortable,
                }
                for title in titles
            ],
            "body": [
                {
                    "key": keys[at],
                    "cells": [write[title](rows[at][title]) for title in titles],
                }
                for at in order[:limit]
            ],
            "linked": titles.index(linked or titles[0]) if links else None,
            "sort": sort,
        },
        on_opened_change=_ignore,
        on_sorted_change=_ignore,
    )
    if (rest := len(rows) - limit) > 0:
        st.button(
            f"Show {min(rest, PAGE_ROWS):,} more of {rest:,}",
            key=f"{key}/more",
            on_click=_show_more,
            args=(f"{key}/rows", limit + PAGE_ROWS),
            width="content",
        )


def _keys(links: Sequence[Query]) -> list[str]:
    """A key per row: its link, and a fragment where earlier rows have the same one.

    Counted from the last row, the oldest: a row that is added at the top leaves the keys of the others as they are.
    """
    seen: Counter[str] = Counter()
    keys = []
    for link in reversed(links):
        url = urlencode(link)
        keys.append(f"{url}#{seen[url]}" if seen[url] else url)
        seen[url] += 1
    return keys[::-1]


def _writer(values: Sequence[object]) -> Callable[[object], str]:
    """How to write a column's values: the numbers in one notation."""
    of_numbers = numbers.column(value for value in values if _is_numeric(value))  # type: ignore[misc]  # just checked

    def write(value: object) -> str:
        if value is None:
            return numbers.MISSING
        return of_numbers(value) if _is_numeric(value) else str(value)  # type: ignore[arg-type]  # just checked

    return write


def _is_numeric(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number(rows: Sequence[Mapping[str, object]], title: str) -> bool:
    """Whether the column is aligned to the right."""
    return any(_is_numeric(row[title]) for row in rows)


def _sort(key: str, clicked: object, sortable: Sequence[str]) -> tuple[str, bool] | None:
    """Title and whether descending; None: in the given order. clicked: the newest click, on title and direction."""
    if isinstance(clicked, list) and len(clicked) == 2:
        st.session_state[key] = (str(clicked[0]), bool(clicked[1]))
    sort: tuple[str, bool] | None = st.session_state.get(key)
    return sort if sort is not None and sort[0] in sortable else None


def _sorted(rows: Sequence[Mapping[str, object]], sort: tuple[str, bool] | None) -> list[int]:
    """The rows' places, sorted; those without a value stand last in either direction."""
    order = list(range(len(rows)))
    if sort is None:
        return order
    title, descending = sort
    numeric = _is_number(rows, title)

    def has_value(at: int) -> bool:
        value = rows[at][title]
        return _is_numeric(value) if numeric else bool(value)

    def of(at: int) -> object:
        value = rows[at][title]
        return value if numeric else str(value).lower()

    known = sorted((at for at in order if has_value(at)), key=of, reverse=descending)  # type: ignore[arg-type]  # of one type
    return known + [at for at in order if not has_value(at)]


def _show_more(key: str, rows: int) -> None:
    st.session_state[key] = rows


def _ignore() -> None:
    """Actions are read from the component's state, but it reports them only if there is a callback."""
