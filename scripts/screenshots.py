"""Take the pictures in docs/images: three real trainings, two of which met a broken batch, one of them still going on.

    .venv/bin/python scripts/screenshots.py [FOLDER]

Starts a stack of its own on free ports in a temporary folder, and Debian's Chromium. Every page, light and dark.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright

import steadynorm
from steadynorm_cli.local_stack import LocalStack
from steadynorm_contract.client import Client

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import char_gpt  # the examples are no package

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
STEPS = 900
CHANGED_AT = 600
BROKEN = {240: 80.0, 421: 40.0, 422: 25.0}
"""Steps whose batch is broken, and how many times too large its gradient is."""

PATIENCE_MS = 120_000


def train(name: str, stack: LocalStack, token: str, steps: int, ends: threading.Event, **options: object) -> str:
    """Train until `steps` are done, and on at a slower pace until `ends` is set. Returns the run's id."""
    torch.manual_seed(0)
    text, vocabulary = char_gpt.load_text()
    generator = torch.Generator().manual_seed(0)
    model = char_gpt.CharGPT(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    agent = steadynorm.attach(model, optimizer, run=name, server=stack.server, token=token, **options)  # type: ignore[arg-type]  # spelled by main
    with agent:
        while step < steps or not ends.is_set():
            loss = char_gpt.loss_of(model, *char_gpt.sample_batch(text, generator))
            optimizer.zero_grad()
            (loss * BROKEN.get(step, 1.0)).backward()
            optimizer.step()
            agent.log(loss=loss, batch_id=f"shard-{step // 64:03d}/{step % 64}")
            step += 1
            if step >= steps:
                ends.wait(0.2)
        return agent.run_id


@contextmanager
def going_on(stack: LocalStack, token: str, client: Client) -> Iterator[str]:
    """The run that is looked at: it goes on while the block runs, and its settings were changed. Its id."""
    ends = threading.Event()
    thread = threading.Thread(
        target=train,
        args=("gpt-small", stack, token, STEPS, ends),
        kwargs={"preset": "paper", "tags": {"team": "language", "lr": "1e-3"}},
    )
    thread.start()
    try:
        while not (found := [run for run in client.runs(name="gpt-small").runs if run.step >= CHANGED_AT]):
            time.sleep(0.2)
        run_id = found[0].run_id
        client.change(run_id, {"gamma2": 0.99}, revision=0, reason="throttled since the broken batch at 421")
        while (run := client.run(run_id)).applied.revision < 1 or run.step < STEPS:
            time.sleep(0.2)
        yield run_id
    finally:
        ends.set()
        thread.join()


class Camera:
    """A visitor in one scheme, who keeps what they see."""

    def __init__(self, browser: Browser, stack: LocalStack, token: str, scheme: str, folder: Path) -> None:
        self._front, self._token, self._scheme, self._folder = stack.dashboard.rstrip("/"), token, scheme, folder
        context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]  # a Literal
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()

    def take(self, name: str, height: int, *, charts: bool = True, signed_in: bool = True, **query: str) -> None:
        """The page of `query` at 1440 × `height` px."""
        self.page.set_viewport_size({"width": 1440, "height": height})
        asked = query | ({"token": self._token} if signed_in else {})
        self.page.goto(self._front + "/?" + "&".join(f"{key}={value}" for key, value in asked.items()))
        if charts:
            expect(self.page.locator(".steadynorm-chart svg").first).to_be_visible(timeout=PATIENCE_MS)
        expect(self.page.get_by_test_id("stApp")).to_have_attribute(
            "data-test-script-state", "notRunning", timeout=PATIENCE_MS
        )
        expect(self.page.locator(".steadynorm-later")).to_have_count(0, timeout=PATIENCE_MS)  # comes after the charts
        time.sleep(4)  # two refreshes, after which nothing moves any more but the data
        expect(self.page.locator('[data-stale="true"]')).to_have_count(0, timeout=PATIENCE_MS)  # dimmed
        self.page.screenshot(path=self._folder / f"{name}-{self._scheme}.png")

    def layers(self) -> None:
        """The heat map of the run's page that was just taken."""
        map_ = self.page.locator(".steadynorm-chart").filter(has=self.page.locator(".heatmaplayer"))
        map_.scroll_into_view_if_needed()
        time.sleep(1)
        map_.screenshot(path=self._folder / f"layers-{self._scheme}.png")


def main() -> None:
    """Train, look, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=IMAGES, help="where they go; default: docs/images")
    folder: Path = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    # Small enough for two busy cores; the layers keep their names.
    char_gpt.WIDTH, char_gpt.BATCH, char_gpt.CONTEXT = 64, 8, 32
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STEADYNORM_")}
        environment = kept | {"STEADYNORM_DASHBOARD_SIGN_IN": "always"}
        with LocalStack(Path(home), port=0, dashboard_port=0, environ=environment) as stack:
            token = (Path(home) / "token").read_text("ascii").strip()
            done = threading.Event()
            done.set()
            beside = train(
                "gpt-small-limited",
                stack,
                token,
                STEPS,
                done,
                preset="paper",
                spike_limit=5.0,
                tags={"team": "language", "lr": "1e-3"},
            )
            train("gpt-observed", stack, token, STEPS // 2, done, mode="observe", tags={"team": "research"})
            client = Client(stack.server, token)
            with going_on(stack, token, client) as run_id, sync_playwright() as playwright:
                spikes = [event for event in client.events(run_id).events if event.kind == "spike"]
                incident = min(spikes, key=lambda event: abs(event.step - max(BROKEN)))
                browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
                for scheme in ("light", "dark"):
                    camera = Camera(browser, stack, token, scheme, folder)
                    camera.take("sign-in", 520, charts=False, signed_in=False)
                    camera.take("fleet", 560, charts=False)
                    camera.take("run", 1000, run=run_id)
                    camera.layers()
                    camera.take("parameter", 1330, run=run_id, parameter=incident.parameter or "blocks.0.qkv.weight")
                    camera.take("incident", 1290, run=run_id, incident=incident.id)
                    camera.take("change", 1280, run=run_id, change="1")
                    camera.take("compare", 1420, compare=f"{run_id},{beside}")
                browser.close()


if __name__ == "__main__":
    main()
