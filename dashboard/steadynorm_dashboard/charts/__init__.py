"""Pure functions from the server's responses to figures. No Streamlit, no HTTP."""
