"""The dashboard: a Streamlit app over the server's HTTP interface. It imports neither torch nor the server.

`launch` starts it, `app` chooses the page. `pages` are made of `panels`; both use `charts` (figures), `components`
(browser code), `data` (reads from the server) and `formatting` (values in words).
"""
