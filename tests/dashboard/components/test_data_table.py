"""Tables in HTML: what is sorted, drawn and linked, and that no page draws one on a canvas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from streamlit.testing.v1 import AppTest

import steadynorm_dashboard
from steadynorm_dashboard.components.data_table import PAGE_ROWS, _keys, _sorted


def test_a_value_that_is_missing_stands_last_in_either_direction() -> None:
    rows: list[dict[str, object]] = [{"norm": 2.0}, {"norm": None}, {"norm": 30}, {"norm": 0.5}]
    assert _sorted(rows, ("norm", True)) == [2, 0, 3, 1]
    assert _sorted(rows, ("norm", False)) == [3, 0, 2, 1]
    assert _sorted(rows, None) == [0, 1, 2, 3]
    assert _sorted([{"name": "b"}, {"name": ""}, {"name": "A"}], ("name", False)) == [2, 0, 1]


def _page() -> None:
    from steadynorm_dashboard.components.data_table import data_table

    names = [f"layer {at}" for at in range(250)]
    data_table(
        [{"parameter": name, "steps": 1000 + at, "norm": None} for at, name in enumerate(names)],
        key="many",
        name="Parameters",
        links=[{"run": "gpt-1", "parameter": name} for name in names],
        sortable=("steps",),
    )


def _shown(page: AppTest) -> Any:
    (table,) = page.get("bidi_component")
    return msgspec.json.decode(table.proto.json)


def test_a_row_leads_to_its_page_and_only_so_many_are_drawn_at_first() -> None:
    page = AppTest.from_function(_page, default_timeout=60).run()
    table = _shown(page)
    assert table["body"][0] == {"key": "run=gpt-1&parameter=layer+0", "cells": ["layer 0", "1,000", "–"]}
    assert (table["linked"], [each["sortable"] for each in table["columns"]]) == (0, [False, True, False])
    assert len(table["body"]) == PAGE_ROWS
    page.button[0].click().run()
    assert len(_shown(page)["body"]) == 2 * PAGE_ROWS


def test_no_page_draws_a_table_on_a_canvas() -> None:
    for path in Path(steadynorm_dashboard.__file__).parent.rglob("*.py"):
        assert not re.search(r"\.(dataframe|data_editor)\(", path.read_text("utf-8")), path


def test_rows_with_one_link_have_keys_that_a_newer_row_leaves_as_they_are() -> None:
    run, other = {"run": "a"}, {"run": "a", "incident": "7"}
    assert _keys([run, other, run]) == ["run=a#1", "run=a&incident=7", "run=a"]
    assert _keys([run, run, other, run])[1:] == _keys([run, other, run])
