"""What the browser gets of a live chart: a figure that looks like the one that it has waits for some seconds."""

from __future__ import annotations

import json

import pytest
from streamlit.testing.v1 import AppTest

from steadynorm_dashboard.components import live_chart


def chart() -> None:
    """A run of so many steps, with this loss in the newest bucket."""
    import streamlit as st

    from steadynorm_dashboard.charts.figure import Figure
    from steadynorm_dashboard.components.live_chart import live_chart

    steps, loss = st.session_state["steps"], st.session_state["loss"]
    ends = {"clipmin": 1, "clipmax": steps}
    trace = {"type": "scatter", "name": "loss", "x": [1, 500_000, 900_000], "y": [1.0, 2.0, loss]}
    live_chart(Figure([trace], {"height": 300, "xaxis": {"autorangeoptions": ends}}), key="chart", name="Chart")


def test_a_figure_that_looks_like_the_one_before_is_sent_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1000.0
    monkeypatch.setattr(live_chart, "_clock", lambda: clock)
    app = AppTest.from_function(chart)

    def sent(steps: int, loss: float) -> tuple[int, float, str]:
        """Steps, loss and words of the figure that the browser has after a refresh."""
        app.session_state["steps"], app.session_state["loss"] = steps, loss
        app.run()
        assert not app.exception
        data = json.loads(app.get("bidi_component")[0].proto.json)
        figure = json.loads(data["figure"])
        return figure["layout"]["xaxis"]["autorangeoptions"]["clipmax"], figure["data"][0]["y"][2], data["description"]

    first = sent(1_000_000, 1.5)
    assert first == (1_000_000, 1.5, "loss: newest 1.5, between 1 and 2.")
    clock += 1.0
    assert sent(1_000_010, 1.5001) == first
    clock += 1.0
    assert sent(1_000_020, 1.6)[:2] == (1_000_020, 1.6), "it differs to the eye"
    for second in range(1, 5):
        clock += 1.0
        assert sent(1_000_020 + second, 1.6 + second / 10_000)[:2] == (1_000_020, 1.6)
    clock += 1.0
    assert sent(1_000_025, 1.6005) == (1_000_025, 1.6005, "loss: newest 1.601, between 1 and 2.")


def test_what_drifts_is_measured_against_what_was_sent_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_chart, "_clock", lambda: 1000.0)
    app = AppTest.from_function(chart)
    seen = []
    for refresh in range(8):
        app.session_state["steps"], app.session_state["loss"] = 1_000_000, 1.5 + refresh / 5_000
        app.run()
        seen.append(json.loads(json.loads(app.get("bidi_component")[0].proto.json)["figure"])["data"][0]["y"][2])
    assert seen == [1.5, 1.5, 1.5, 1.5006, 1.5006, 1.5006, 1.5012, 1.5012]
