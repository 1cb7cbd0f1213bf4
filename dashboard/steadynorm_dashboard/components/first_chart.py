"""What stands around a page's charts is sent after them, in the first visit of a browser.

A browser builds all elements that it has before it draws, and those around the charts of a run take it as long as all
the rest. Once a chart stands, all parts of that visit's pages are sent at once.

    charts()
    if first_chart.is_drawn():  # else the page is run again as soon as it is
        the_rest()
"""

from __future__ import annotations

import streamlit as st

_DRAWN = "first_chart/drawn"

# A chart that cannot be drawn, in a background tab or without its library, is waited for only so long. A report that
# leaves together with one of a fragment runs that fragment alone, so it is sent again: a few times, each after twice
# the time, because each starts the page's run anew, and this element goes only when such a run has come to its end.
SCRIPT = """
const PATIENCE_MS = 5000, LOOK_MS = 20, AGAIN_MS = 2000, REPORTS = 6;
export default function wait({ parentElement: host, setTriggerValue }) {
  host.steadynormBegan ??= performance.now(); // this function is called again when the element is drawn again
  host.steadynormReports ??= 0;
  let due = 0;
  const report = () => {
    setTriggerValue("drawn", true);
    host.steadynormReports += 1;
    again();
  };
  const again = () => {
    if (host.steadynormReports < REPORTS) due = setTimeout(report, AGAIN_MS * 2 ** (host.steadynormReports - 1));
  };
  const look = () => {
    const drawn = "steadynormDrawn" in document.documentElement.dataset;
    if (drawn || performance.now() - host.steadynormBegan > PATIENCE_MS) report();
    else due = setTimeout(look, LOOK_MS);
  };
  if (host.steadynormReports) again();
  else look();
  return () => clearTimeout(due);
}
"""


def is_drawn() -> bool:
    """Whether the rest of the page can be drawn. True also where there is no browser that could report a chart.

    Not in a fragment: the report runs the page again.
    """
    if _DRAWN in st.session_state or not st.context.headers:
        return True
    component = st.components.v2.component(
        "steadynorm_first_chart", html='<span class="steadynorm-later"></span>', js=SCRIPT, isolate_styles=False
    )
    component(key="first_chart", on_drawn_change=_note)
    return False


def skip() -> None:
    """No chart is going to be drawn: wait for none."""
    if _DRAWN not in st.session_state:
        _note()
        if st.context.headers:
            st.rerun()


def _note() -> None:
    st.session_state[_DRAWN] = True
