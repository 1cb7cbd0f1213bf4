"""Other people's words, made safe to draw: names, tags and reasons come from whoever holds a token.

Streamlit's labels read Markdown with extensions (`:red[…]`, `:smile:`, `$x$`), plotly's read a subset of HTML. Both
would let a run's name pretend to be something else, lead elsewhere, or load an image.
"""

from __future__ import annotations

import html
import re
import unicodedata

__all__ = ["badge", "markdown", "plotly", "visible"]

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_REPLACED = re.compile(
    r"(:)(?=[\w+/-]+:)|(:)(?=//)|(\bwww)(?=\.)|(?<=\w)(@)(?=\w)", re.IGNORECASE
)  # short codes, addresses of pages and mail
_WORD_JOINER = "\u2060"


def visible(text: str, limit: int = 120) -> str:
    """One line of at most `limit` characters. Control characters and those that turn the writing direction: U+FFFD."""
    shown = "".join(
        " " if character in "\n\t" else "\ufffd" if unicodedata.category(character) in {"Cc", "Cf", "Cs"} else character
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def markdown(text: str, limit: int = 120) -> str:
    """`text` for a place that reads Markdown, such that it is shown as written and nothing else."""
    # Short codes and addresses are looked for after the Markdown was parsed, when a backslash no longer protects.
    joined = _REPLACED.sub(lambda found: found[0] + _WORD_JOINER, visible(text, limit))
    return _PUNCTUATION.sub(r"\\\1", joined)


def badge(text: str, limit: int = 120) -> str:
    """`text` for `st.badge`, which escapes brackets by itself: done twice, they would be bare again."""
    return markdown(text, limit).replace("\\[", "[").replace("\\]", "]")


def plotly(text: str, limit: int = 120) -> str:
    """`text` for a plotly label or hover."""
    return html.escape(visible(text, limit), quote=False)
