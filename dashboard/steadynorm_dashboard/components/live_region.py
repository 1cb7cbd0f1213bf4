"""What screen readers say by themselves: one region of a page, which stays while its text is replaced."""

from __future__ import annotations

import streamlit as st

_SCRIPT = """
export default function draw({ data, parentElement }) {
  const region = parentElement.querySelector("[role=status]");
  if (region.textContent !== data.text) region.textContent = data.text; // the same text is not said again
}
"""


def live_region(text: str) -> None:
    """Say `text`, which is not escaped, when it differs from the one before. It takes no space on the page."""
    component = st.components.v2.component(
        "steadynorm_live_region",
        html='<div role="status" aria-live="polite" aria-atomic="true"></div>',
        js=_SCRIPT,
        isolate_styles=False,
    )
    component(key="live-region", data={"text": text})
