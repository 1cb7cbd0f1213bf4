"""The controls of charts: a zoom that arrives while the whole page is drawn."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def test_a_zoom_that_arrives_with_a_request_for_the_whole_page_draws_the_page_again() -> None:
    def page() -> None:
        import streamlit as st

        from steadynorm_dashboard.panels import chart_controls

        @st.fragment
        def charts() -> None:
            chart_controls.zoom("run", 10, 20)
            st.write("the charts")

        charts()
        st.write("the rest")

    app = AppTest.from_function(page, default_timeout=60).run()
    assert not app.exception
    assert app.session_state["run/zoom"] == {"": (10, 20)}
    assert [text.value for text in app.markdown] == ["the charts", "the rest"]
