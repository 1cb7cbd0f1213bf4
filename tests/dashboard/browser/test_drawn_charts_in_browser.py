"""Which figures are drawn: those that differ to the eye from the one that stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from steadynorm_dashboard.components import files

LIBRARY = Path(files.__file__).parents[1] / "library" / "plotly.min.js"
LOOKS_DRAWN = f"""([drawn, newer]) => {{
    {files.text("drawn_chart.js")}
    const axis = {{ d2p: (value) => (value === null ? NaN : 100 * value) }};
    const host = {{ _fullLayout: {{ xaxis: axis, yaxis: axis, yaxis2: axis }} }};
    return looksDrawn(host, drawing(drawn), drawing(newer));
}}"""


def figure(ys: list[float | None], *, end: float = 1.0, second: float = 3.0, **layout: object) -> dict[str, Any]:
    """Two lines on an axis each, of which a unit is 100 pixels, and a map."""
    return {
        "data": [
            {"type": "scatter", "name": "loss", "x": [1.0, 2.0, 3.0], "y": ys},
            {"type": "scatter", "name": "norm", "yaxis": "y2", "x": [1.0], "y": [second]},
            {"type": "heatmap", "z": [[1.0, 2.0]]},
        ],
        "layout": {"xaxis": {"autorangeoptions": {"clipmin": 0.0, "clipmax": end}}, **layout},
    }


NOW = figure([1.0, None, 3.0])
MOVED: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": (NOW, True),
    "half a pixel less": (figure([1.0, None, 3.004]), True),
    "half a pixel": (figure([1.0, None, 3.006]), False),
    "on the other axis": (figure([1.0, None, 3.0], second=3.006), False),
    "a gap that is filled": (figure([1.0, 2.0, 3.0]), False),
    "a gap that opens": (figure([1.0, None, None]), False),
    "the end by less than half a pixel": (figure([1.0, None, 3.0], end=1.004), True),
    "the end": (figure([1.0, None, 3.0], end=1.006), False),
    "one point more": (NOW | {"data": [NOW["data"][0] | {"x": [1.0, 2.0, 3.0, 4.0]}, *NOW["data"][1:]]}, False),
    "a name": (NOW | {"data": [NOW["data"][0] | {"name": "other"}, *NOW["data"][1:]]}, False),
    "a cell": (NOW | {"data": [*NOW["data"][:2], {"type": "heatmap", "z": [[1.0, 2.001]]}]}, False),
    "a mark of a change": (figure([1.0, None, 3.0], shapes=[{"x0": 2}]), False),
    "one trace less": (NOW | {"data": NOW["data"][:2]}, False),
}


@pytest.fixture(scope="module")
def looked(browser: Browser) -> dict[str, bool]:
    page = browser.new_page()
    looks = {name: page.evaluate(LOOKS_DRAWN, [NOW, newer]) for name, (newer, _) in MOVED.items()}
    page.close()
    return looks


@pytest.mark.parametrize("moved", MOVED)
def test_a_figure_is_drawn_where_it_differs_by_half_a_pixel(looked: dict[str, bool], moved: str) -> None:
    assert looked[moved] is MOVED[moved][1]


LEADER_AND_FOLLOWER = f"""async () => {{
    const code = {json.dumps(files.text("drawn_chart.js", "fitted_chart.js", "live_chart.js"))};
    const {{ default: draw }} = await import(URL.createObjectURL(new Blob([code], {{ type: "text/javascript" }})));
    const [leader, follower] = document.querySelectorAll("section");
    const show = (parentElement, y, follows) => draw({{
        parentElement,
        setTriggerValue: () => {{}},
        data: {{
            library: "plotly.js", name: "chart", description: "words", group: "run", follows,
            figure: JSON.stringify({{
                data: [{{ type: "scatter", x: [0, 100], y: [0, y] }}],
                layout: {{ width: 400, height: 300, uirevision: "same", margin: {{ l: 40, b: 40, t: 20, r: 20 }},
                          xaxis: {{ range: [0, 100] }}, yaxis: {{ range: [0, 2] }} }},
            }}),
        }},
    }});
    const host = (section) => section.querySelector(".steadynorm-chart");
    await show(leader, 1, false);
    await show(follower, 1, true);
    await show(follower, 1.0001, true);  // not drawn yet: it looks the same
    await Plotly.relayout(host(leader), {{ "xaxis.range": [20, 40] }});
    do await new Promise((resolve) => setTimeout(resolve, 10)); while (host(follower).steadynormDraws);
    return [host(leader), host(follower)].map((one) => [...one._fullLayout.xaxis.range]);
}}"""


def test_a_chart_that_follows_stays_with_its_leader_where_it_is_drawn_late(browser: Browser) -> None:
    page = browser.new_page()
    chart = '<section><figure><div class="steadynorm-chart"></div><p></p></figure></section>'
    page.route("http://charts.test/", lambda route: route.fulfill(body=2 * chart, content_type="text/html"))
    page.route("http://charts.test/plotly.js", lambda route: route.fulfill(path=LIBRARY))
    page.goto("http://charts.test/")
    assert page.evaluate(LEADER_AND_FOLLOWER) == [[20, 40], [20, 40]]
    page.close()


GREYS = f"""async () => {{
    const code = {json.dumps(files.text("drawn_chart.js", "fitted_chart.js", "live_chart.js"))};
    const {{ default: draw }} = await import(URL.createObjectURL(new Blob([code], {{ type: "text/javascript" }})));
    const [parentElement] = document.querySelectorAll("section");
    const change = {{ text: "r1", name: "change:1", x: 1, y: 1, font: {{ size: 12 }} }};
    const annotations = [change, {{ text: "title", x: 1, y: 2 }}];
    await draw({{
        parentElement,
        setTriggerValue: () => {{}},
        data: {{
            library: "plotly.js", name: "chart", description: "words", group: "",
            figure: JSON.stringify({{
                data: [{{ type: "scatter", x: [1, 2], y: [1, 2] }}],
                layout: {{ width: 400, height: 300, xaxis: {{}}, yaxis: {{}}, annotations }},
            }}),
        }},
    }});
    const {{ modebar, annotations: drawn }} = parentElement.querySelector(".steadynorm-chart")._fullLayout;
    return [modebar.color, ...drawn.map(({{ font }}) => font.color)];
}}"""


def test_buttons_and_labels_of_changes_are_in_the_themes_grey_for_text(browser: Browser) -> None:
    page = browser.new_page()
    grey, text = "rgb(85, 98, 110)", "rgb(27, 38, 48)"
    style = f"--st-gray-text-color: {grey}; --st-text-color: {text}; --st-border-color: rgb(215, 221, 227)"
    chart = f'<section style="{style}"><figure><div class="steadynorm-chart"></div><p></p></figure></section>'
    page.route("http://charts.test/", lambda route: route.fulfill(body=chart, content_type="text/html"))
    page.route("http://charts.test/plotly.js", lambda route: route.fulfill(path=LIBRARY))
    page.goto("http://charts.test/")
    assert page.evaluate(GREYS) == [grey, grey, text]
    page.close()
