"""The built site: it has no warning, lists are lists, and the anchors that alerts point to are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.conftest import LoadScript

PAGES = ("operations", "live-control", "retention", "measurements", "scaling", "security")


def article(site: Path, page: str) -> str:
    """The page's own part of its HTML."""
    html = (site / page / "index.html").read_text("utf-8")
    found = re.search(r"<article.*?</article>", html, re.DOTALL)
    assert found is not None
    return found[0]


def items(markdown: str) -> int:
    """List items of a page, those in code left out."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return len(re.findall(r"^(?:- |\d+\. )", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_list_item_is_one_on_the_site_too(root: Path, site: Path, page: str) -> None:
    expected = items((root / "docs" / f"{page}.md").read_text("utf-8"))
    assert expected > 2
    assert article(site, page).count("<li>") == expected


def test_the_anchors_that_alerts_point_to_exist(root: Path, site: Path) -> None:
    rules = (root / "deploy" / "prometheus" / "rules.yml").read_text("utf-8")
    anchors = re.findall(r"docs/operations\.md#(\w+)", rules)
    assert len(anchors) >= 9
    ids = set(re.findall(r'<h2 id="(\w+)"', article(site, "operations")))
    assert set(anchors) <= ids
    grafana = "".join(path.read_text("utf-8") for path in (root / "deploy" / "grafana").rglob("*.json"))
    assert set(re.findall(r"docs/([\w-]+\.md)", grafana)) == {"operations.md"}


def test_code_is_on_the_page_and_no_snippet_marker_is_left(site: Path) -> None:
    pages = list(site.rglob("index.html"))
    assert len(pages) > 30
    assert [str(page) for page in pages if "--8&lt;--" in page.read_text("utf-8")] == []
    assert "clip_grad_norm_" in article(site, "pytorch")


def test_the_python_reference_has_signatures_and_docstrings(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", article(site, "reference/python"))
    for words in ("attach(", "before_clip(", "GradientStabilizer(", "fleet(", "observe_steps", "ServerUnreachable"):
        assert words in page


def test_a_page_asks_no_other_host(site: Path) -> None:
    loaded = re.compile(
        r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//|<link\b[^>]*stylesheet[^>]*(?:https?:)?//"
    )
    pages = {str(page.relative_to(site)): page.read_text("utf-8") for page in site.rglob("*.html")}
    assert [name for name, html in pages.items() if loaded.search(html)] == []
    # Material's script fetches mermaid from a content delivery network where a page has a diagram's source.
    assert [name for name, html in pages.items() if 'class="mermaid"' in html] == []


def test_pictures_of_diagrams_are_those_of_their_sources(root: Path, load_script: LoadScript) -> None:
    digest = load_script("docs_diagrams").digest
    sources = sorted((root / "docs" / "diagrams").glob("*.mmd"))
    assert len(sources) >= 2
    for source in sources:
        picture = (root / "docs" / "images" / "diagrams" / f"{source.stem}.svg").read_text("utf-8")
        assert f'data-source="{digest(source.read_text("utf-8"))}"' in picture, source.name


def test_every_picture_of_a_page_is_on_the_site(site: Path) -> None:
    shown = [
        (page, source)
        for page in site.rglob("index.html")
        for source in re.findall(r"<img\b[^>]*\bsrc=\"([^\":]+)\"", page.read_text("utf-8"))
    ]
    assert len(shown) > 15
    assert [str(page.relative_to(site)) for page, source in shown if not (page.parent / source).is_file()] == []
