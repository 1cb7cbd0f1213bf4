"""Whether the page is in a background tab, where nobody sees its refreshes: see `quiet_timers`."""

from __future__ import annotations

import streamlit as st

from steadynorm_dashboard.components import quiet_timers

_SCRIPT = """
export default function watch({ setStateValue }) {
  let told = false;
  const tell = () => {
    if (document.hidden !== told) setStateValue("hidden", (told = document.hidden));
  };
  tell();
  document.addEventListener("visibilitychange", tell);
  return () => document.removeEventListener("visibilitychange", tell);
}
"""


@st.fragment
def watch() -> None:
    """Refresh the page only while it is seen. It takes no space on the page, and is not there without a browser."""
    if not st.context.headers:
        return
    component = st.components.v2.component(
        "steadynorm_background_tab",
        html='<span class="steadynorm-background-tab"></span>',
        js=_SCRIPT,
        isolate_styles=False,
    )
    state = component(key="background-tab", on_hidden_change=_note)
    quiet_timers.hide(st.context.headers, bool(state.get("hidden")))


def _note() -> None:
    """A component reports its state only if there is a callback."""
