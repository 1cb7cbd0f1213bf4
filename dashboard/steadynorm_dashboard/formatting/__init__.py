"""Turns values into words and table rows. Pure: no Streamlit, no HTTP."""
