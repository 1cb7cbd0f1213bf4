"""Take the pictures in docs/images from a real run: the demo, halfway through, with its change applied.

    .venv/bin/python scripts/screenshots.py

Starts a house of its own on free ports in a temporary folder, and Debian's Chromium.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from steadynorm_dashboard import launch
from steadynorm_server.demo import Training
from steadynorm_server.up import House

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
STEPS = 1200
SHOT_AT = 750  # some time after the change, which is made halfway


def take(page: Page, house: House, run_id: str, name: str) -> None:
    """One run's page as a visitor sees it."""
    page.goto(launch.link(house.dashboard, run_id))
    expect(page.locator(".steadynorm-chart svg").first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("applied @ step").first).to_be_visible(timeout=60_000)
    time.sleep(3)  # two refreshes, after which nothing moves any more but the data
    page.screenshot(path=IMAGES / name)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        House(Path(folder), port=0, dashboard_port=0) as house,
        Training(house, STEPS) as training,
    ):
        for run in training.watch():
            if run.step >= SHOT_AT:
                break
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                size = {"width": 1440, "height": 1000}
                context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]  # TypedDict, Literal
                take(context.new_page(), house, training.run_id, f"run-{scheme}.png")
            browser.close()


if __name__ == "__main__":
    main()
