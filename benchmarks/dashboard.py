"""The dashboard on a long run: how soon its first chart stands, how soon a control answers, alone and with company.

    python benchmarks/dashboard.py [--steps 1000000] [--parameters 300] [--browsers 1,5] [--clicks 40] [--opens 5]

A run is stored as `query.py` does it, and goes on at 10 steps a second while real Chromium visitors look at its page.
For each number of visitors at once: the page is opened `--opens` times by a visitor whose browser has never seen it
("cold") and again by one whose browser has its files ("warm"), from the request to the first drawn line; then the
visitors take turns at switching the mode, `--clicks` times in all, from the press to the changed words, while all
charts go on. How often the pages get and draw a figure meanwhile is counted. All of it is timed inside the browser, by
its own clock. The company comes at once, and says how long it took to settle. `--browsers 5` measures that part alone.

Prints a line for each measurement with median and maximum, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from malformed import served
from playwright.sync_api import Browser, Page, sync_playwright
from query import BATCH_STEPS, RUN_ID, History, fill

from steadynorm_cli.local_stack import LocalStack
from steadynorm_dashboard import launch
from steadynorm_server.auth.principals import Principal, Role
from steadynorm_server.retention.policy import Limits
from steadynorm_server.runs.repository import RunRepository
from steadynorm_server.runtime.embedded_redis import embedded_redis_server
from steadynorm_server.telemetry.service import TelemetryService

CHROMIUM = "/usr/bin/chromium"
STEPS_A_SECOND = 10
PATIENCE_MS = 120_000

FIGURE_BYTES = 30_000  # a message with the run's figure is longer, all others of a refresh are shorter

# What a page notes of itself: when its first line stood, every figure that it got and every redraw, and the answer to
# the last press. A figure that differs by less than half a pixel from the one that stands is not drawn.
WATCH = """
window.watched = {first: null, figures: 0, redraws: 0, pressed: null, answers: []};
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({data}) => {
      if ((data.byteLength ?? data.size) > FIGURE_BYTES) watched.figures += 1;
    });
  }
};
const look = () => {
  const chart = document.querySelector(".steadynorm-chart");
  if (chart?.on && !chart.watched) {
    chart.watched = true;
    chart.on("plotly_afterplot", () => { watched.redraws += 1; });
  }
  if (watched.first === null && chart?.querySelector(".scatterlayer path.js-line")) watched.first = performance.now();
  if (watched.pressed === null) return;
  const says = document.body.innerText.includes("mode: stabilize →");
  if (says !== watched.said) {
    watched.answers.push(performance.now() - watched.pressed);
    watched.pressed = null;
  }
};
addEventListener("pointerdown", (event) => {
  if (!event.target.closest?.("[role=radiogroup]")) return;
  watched.said = document.body.innerText.includes("mode: stabilize →");
  watched.pressed = performance.now();
}, {capture: true});
new MutationObserver(look).observe(document, {
  subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["d"],
});
""".replace("FIGURE_BYTES", str(FIGURE_BYTES))


class Figures(msgspec.Struct):
    """Of one number of visitors. Times in ms: median and maximum."""

    browsers: int
    cold_first_chart: tuple[float, float]
    warm_first_chart: tuple[float, float]
    control: tuple[float, float]
    controls: int
    figures_a_second: float  # that a visitor's page got, while the controls are used
    redraws_a_second: float  # of those that differ to the eye, of six panels


class Going:
    """The run goes on: a thread that stores a batch a second."""

    def __init__(self, url: str, history: History) -> None:
        self._url, self._history = url, history
        self._ends = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._go()), name="run")

    def __enter__(self) -> Going:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    async def _go(self) -> None:
        anyone = Principal("benchmark", frozenset(Role))
        rng = np.random.default_rng(1)
        step, sequence = self._history.steps, -(-self._history.steps // BATCH_STEPS)
        async with RunRepository(self._url).opened() as repository:
            telemetry = TelemetryService(repository, Limits())
            while not await asyncio.to_thread(self._ends.wait, 1.0):
                steps = np.arange(step + 1, step + 1 + STEPS_A_SECOND)
                step, sequence = int(steps[-1]), sequence + 1
                await telemetry.ingest(RUN_ID, self._history.batch(sequence, steps, rng), anyone)


def first_chart(page: Page, address: str) -> float:
    """Open the run's page: ms from the request to the first drawn line."""
    page.goto(launch.link(address, RUN_ID))
    page.wait_for_function("watched.first !== null")
    took: float = page.evaluate("watched.first")
    return took


def settled(page: Page) -> None:
    """The whole page stands, and has got its figure again: the first run of its script is over."""
    page.locator(".heatmaplayer image").first.wait_for()
    page.wait_for_function("watched.figures >= 3")  # the map is one


def press(page: Page) -> None:
    """Switch the mode, and wait for the answer."""
    answered = page.evaluate("watched.answers.length")
    changed = page.evaluate("document.body.innerText.includes('mode: stabilize →')")
    page.get_by_role("radio", name="stabilize" if changed else "observe", exact=True).click()
    page.wait_for_function(f"watched.answers.length > {answered}")


def visitor(browser: Browser) -> Page:
    """A page whose browser has seen nothing yet."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(WATCH)
    return context.new_page()


def measure(browser: Browser, address: str, browsers: int, opens: int, clicks: int) -> Figures:
    """All figures of so many visitors at once."""
    came = time.monotonic()
    company = [visitor(browser) for _ in range(browsers - 1)]
    for page in company:
        page.goto(launch.link(address, RUN_ID))
    for page in company:
        settled(page)
    if company:
        print(f"  {len(company)} came at once and were settled after {time.monotonic() - came:.1f} s", flush=True)
    cold, warm = [], []
    for _ in range(opens):
        page = visitor(browser)
        cold.append(first_chart(page, address))
        settled(page)
        warm.append(first_chart(page, address))
        settled(page)
        page.context.close()
    pages = [*company, visitor(browser)]
    first_chart(pages[-1], address)
    settled(pages[-1])
    pace = random.Random(0)
    before, began = [_counted(pages, what) for what in ("figures", "redraws")], time.monotonic()
    for at in range(clicks):
        pages[0].wait_for_timeout(1000 * pace.uniform(0.05, 0.6))  # a hand does not keep time with the refresh
        press(pages[at % len(pages)])
    seconds = time.monotonic() - began
    figures, redraws = (_counted(pages, what) - was for what, was in zip(("figures", "redraws"), before, strict=True))
    responses = [ms for page in pages for ms in page.evaluate("watched.answers")]
    for page in pages:
        page.context.close()
    return Figures(
        browsers,
        _told(f"{browsers} at once: first chart, cold", cold),
        _told(f"{browsers} at once: first chart, warm", warm),
        _told(f"{browsers} at once: a control", responses),
        len(responses),
        round(figures / seconds / browsers, 2),
        round(redraws / seconds / browsers, 2),
    )


def _counted(pages: Sequence[Page], what: str) -> int:
    return sum(page.evaluate(f"watched.{what}") for page in pages)


def _told(label: str, took: Sequence[float]) -> tuple[float, float]:
    middle, longest = round(statistics.median(took)), round(max(took))
    print(f"  {label}: median {middle} ms, longest {longest} ms of {len(took)}", flush=True)
    return middle, longest


def main() -> None:
    """Fill, look, print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--parameters", type=int, default=300)
    parser.add_argument("--browsers", default="1,5", help="numbers of visitors at once")
    parser.add_argument("--opens", type=int, default=5, help="times that the page is opened, cold and warm each")
    parser.add_argument("--clicks", type=int, default=40, help="by all visitors together")
    given = parser.parse_args()
    history = History(given.steps, given.parameters, 10)
    with tempfile.TemporaryDirectory() as name, embedded_redis_server(Path(name) / "redis") as url:
        home = Path(name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
        environment = kept | {"STEADYNORM_HOME": name, "STEADYNORM_DASHBOARD_SIGN_IN": "never"}
        print(f"stored {given.steps} steps in {asyncio.run(fill(url, history)):.0f} s", flush=True)
        with (
            served(url, home),
            LocalStack(home, dashboard_port=0, reuse_running=True, environ=environment) as stack,
            Going(url, history),
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
            )
            figures = [
                measure(browser, stack.dashboard, int(one), given.opens, given.clicks)
                for one in given.browsers.split(",")
            ]
            browser.close()
    print(
        json.dumps(
            {"steps": given.steps, "parameters": given.parameters, "cores": os.cpu_count()}
            | {"figures": msgspec.to_builtins(figures)}
        )
    )
    held = all(one.cold_first_chart[0] <= 2000 and one.control[0] <= 300 for one in figures)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
