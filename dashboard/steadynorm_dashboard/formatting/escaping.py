"""Escapes untrusted text for display: names, tags and reasons come from whoever holds a token.

Streamlit's labels are Markdown with extensions (`:red[…]`, `:smile:`, `$x$`), plotly's are a subset of HTML. Unescaped,
a run's name could imitate other elements, link to another site, or load an image.
"""

from __future__ import annotations

import html
import re
import unicodedata

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_REPLACED = re.compile(
    r"(:)(?=[\w+/-]+:)|(:)(?=//)|(\bwww)(?=\.)|(?<=\w)(@)(?=\w)", re.IGNORECASE
)  # short codes, web and e-mail addresses
_PLAIN = re.compile(r"(?!.*www\.)[a-z0-9]+(?:[_./-][a-z0-9]+)*", re.IGNORECASE)
_WORD_JOINER = "\u2060"


def visible(text: str, limit: int = 120) -> str:
    """One line of at most `limit` characters. Control and direction characters become U+FFFD."""
    shown = "".join(
        " " if character in "\n\t" else "\ufffd" if unicodedata.category(character) in {"Cc", "Cf", "Cs"} else character
        for character in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def markdown(text: str, limit: int = 120) -> str:
    """`text` as Markdown that is shown exactly as written."""
    # Short codes and addresses are detected after the Markdown was parsed, where a backslash has no effect.
    joined = _REPLACED.sub(lambda found: found[0] + _WORD_JOINER, visible(text, limit))
    return _PUNCTUATION.sub(r"\\\1", joined)


def label(text: str, limit: int = 120) -> str:
    """`text` for a widget's label, which screen readers are told as it is: names that need no backslashes have none."""
    return text if len(text) <= limit and _PLAIN.fullmatch(text) else markdown(text, limit)


def badge(text: str, limit: int = 120) -> str:
    """`text` for `st.badge`, which escapes brackets itself: escaped twice, they would be unescaped."""
    return markdown(text, limit).replace("\\[", "[").replace("\\]", "]")


def plotly(text: str, limit: int = 120) -> str:
    """`text` for a plotly label or hover."""
    return html.escape(visible(text, limit), quote=False)
