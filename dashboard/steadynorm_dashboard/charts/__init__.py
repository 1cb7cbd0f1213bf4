"""Pure functions from the server's responses to figures: no Streamlit, no HTTP."""
