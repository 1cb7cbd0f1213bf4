"""Renders docs/diagrams/*.mmd as docs/images/diagrams/*.svg, so that no page of the site needs a script for them.

    npm pack @mermaid-js/tiny@11.17.2 && tar xzf mermaid-js-tiny-*.tgz
    .venv/bin/python scripts/docs_diagrams.py package/dist/mermaid.tiny.js

Only who changes a diagram runs this. Each picture names the digest of its source, which a test compares.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).resolve().parent.parent / "docs"
OPTIONS = {
    "startOnLoad": False,
    "theme": "neutral",
    "htmlLabels": False,  # text as SVG text: viewers that are no browsers show it too
    "flowchart": {"htmlLabels": False},
}
COLORS = "svg{background:#fff}"


def digest(source: str) -> str:
    """What a picture carries of its source."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def render(page: Page, name: str, source: str) -> str:
    """The diagram as SVG."""
    svg: str = page.evaluate(
        "async ([name, source, options]) => {"
        "mermaid.initialize(options); return (await mermaid.render(name, source)).svg }",
        [name, source, OPTIONS],
    )
    svg = svg.replace("<style>", f"<style>{COLORS}", 1)
    return svg.replace("<svg ", f'<svg data-source="{digest(source)}" ', 1) + "\n"


def main(mermaid: str) -> None:
    """Render all diagrams with this copy of mermaid."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.add_script_tag(path=mermaid)
        for path in sorted((DOCS / "diagrams").glob("*.mmd")):
            svg = render(page, path.stem, path.read_text("utf-8"))
            (DOCS / "images" / "diagrams" / f"{path.stem}.svg").write_text(svg, "utf-8")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mermaid", help="a copy of mermaid.tiny.js")
    main(parser.parse_args().mermaid)
