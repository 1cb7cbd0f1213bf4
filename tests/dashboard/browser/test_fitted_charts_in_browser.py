"""A run's chart at the widths of phones, laptops and desks, and in a tab that nobody looks at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit
from playwright.sync_api import Browser, Page

from steadynorm_contract.events import Event, EventKind
from steadynorm_contract.series import Series
from steadynorm_dashboard.charts import run
from steadynorm_dashboard.components import files

LIBRARY = Path(files.__file__).parents[1] / "library" / "plotly.min.js"
FONT = next(Path(streamlit.__file__).parent.glob("static/static/media/SourceSansVF-Upright*.woff2"))
CHART = """<style>
@font-face { font-family: "Source Sans"; src: url(font); font-weight: 200 900; }
body { margin: 0; font-family: "Source Sans"; --st-font: "Source Sans"; }
figure { margin: 0; }
</style>
<section><figure><div class="steadynorm-chart"></div><p></p></figure></section>"""
DRAW = f"""async (figure) => {{
    const code = {json.dumps(files.text("drawn_chart.js", "fitted_chart.js", "live_chart.js"))};
    window.chart ??= import(URL.createObjectURL(new Blob([code], {{ type: "text/javascript" }})));
    const {{ default: draw }} = await window.chart;
    const data = {{ library: "plotly.js", name: "chart", description: "words", figure }};
    await draw({{ data, parentElement: document.querySelector("section"), setTriggerValue: () => {{}} }});
}}"""
BOXES = """(selector) => [...document.querySelectorAll(selector)].filter((one) => one.textContent).map((one) => {
    const { left, right, top, bottom } = one.getBoundingClientRect();
    return [left, right, top, bottom];
})"""
SEEN = "visible => Object.defineProperty(document, 'hidden', { configurable: true, get: () => !visible })"
NEWEST = "() => document.querySelector('.steadynorm-chart')._fullData[0].x.at(-1)"


def figure(steps: int = 40) -> str:
    """Of a run in which everything happened that its legend can name but a note."""
    levels = dict.fromkeys(run.RUN_SERIES, 1.0) | {"nonfinite": 0.0, "loss_nonfinite": 0.0}
    values: dict[str, list[float | None]] = {name: [level] * steps for name, level in levels.items()}
    values["spike_ratio_max"][5], values["nonfinite"][7], values["loss_nonfinite"][7] = 500.0, 3.0, 1.0
    at, ones = list(range(steps)), [1] * steps
    times = [float(step) for step in at]
    data = {name: Series(at, ones, each, each, each, times) for name, each in values.items()}
    small = Event(id="1-0", kind=EventKind.THROTTLED, step=9, time=0.0, message="", parameter="0.weight", value=0.1)
    drawn = run.run_figure(data, [], [small], revision="a run")
    assert drawn is not None
    return drawn.to_json()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1000, "height": 1000})
    page.route("http://charts.test/", lambda route: route.fulfill(body=CHART, content_type="text/html"))
    page.route("http://charts.test/plotly.js", lambda route: route.fulfill(path=LIBRARY))
    page.route("http://charts.test/font", lambda route: route.fulfill(path=FONT))
    page.goto("http://charts.test/")
    page.evaluate("() => Promise.all([400, 700].map((weight) => document.fonts.load(`${weight} 12px 'Source Sans'`)))")
    yield page
    page.close()


def overlapping(page: Page, some: str, others: str) -> list[tuple[Any, Any]]:
    """Pairs of boxes, one of each, that share more than a pixel."""
    pairs = [(one, other) for one in page.evaluate(BOXES, some) for other in page.evaluate(BOXES, others)]
    assert pairs, f"neither {some} nor {others} may be missing"
    return [
        (one, other)
        for one, other in pairs
        if min(one[1], other[1]) - max(one[0], other[0]) > 1 and min(one[3], other[3]) - max(one[2], other[2]) > 1
    ]


@pytest.mark.parametrize("width", [360, 500, 640, 760, 815, 870, 1280])
def test_neither_the_legend_nor_the_title_of_the_axis_covers_other_words(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1000})
    page.evaluate(DRAW, figure())
    assert overlapping(page, ".legendtext", ".annotation-text") == []
    assert overlapping(page, ".legendtext", ".xtick, .x2tick") == []
    assert overlapping(page, ".xtitle", ".xtick, .x2tick, .legendtext") == []
    named = page.evaluate("() => [...document.querySelectorAll('.legendtext')].map((one) => one.textContent)")
    assert named == ["raw norm", "stabilized norm", "spike", "non-finite", "small target"]


def test_a_tab_that_comes_back_shows_the_newest_figure_and_none_in_between(page: Page) -> None:
    page.evaluate(DRAW, figure(40))
    page.evaluate(SEEN, False)
    for steps in (60, 80):
        page.evaluate(f"(figure) => {{ ({DRAW})(figure) }}", figure(steps))
    page.wait_for_timeout(300)
    assert page.evaluate(NEWEST) == 39
    page.evaluate(SEEN, True)
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function(f"() => ({NEWEST})() === 79")
