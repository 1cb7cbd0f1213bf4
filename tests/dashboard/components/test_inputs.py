"""What was typed stays until the program sets another value, also on a page that was left."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def script() -> None:
    import streamlit as st

    from steadynorm_dashboard.components import inputs

    inputs.value("eps", 1.0)
    if st.button("fill"):
        inputs.put("eps", 3.0)
    if st.checkbox("here", value=True):
        st.number_input("eps", value=inputs.value("eps"), key=inputs.key("eps"))
    st.text(inputs.value("eps"))


def test_an_input_starts_with_what_was_put_and_keeps_what_was_typed() -> None:
    app = AppTest.from_function(script, default_timeout=60).run()
    assert (app.number_input[0].value, app.number_input[0].proto.default) == (1.0, 1.0)
    app.number_input[0].set_value(2.0).run()
    assert app.text[0].value == "2.0"
    app.checkbox[0].uncheck().run()
    app.run()
    app.checkbox[0].check().run()
    assert (app.number_input[0].value, app.text[0].value) == (2.0, "2.0")
    late = app.number_input[0]
    app.button[0].click().run()
    shown = app.number_input[0]
    assert shown.key != late.key
    assert (shown.value, shown.proto.default, shown.proto.set_value, app.text[0].value) == (3.0, 3.0, False, "3.0")
