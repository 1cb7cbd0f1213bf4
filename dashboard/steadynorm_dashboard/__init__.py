"""What operators look at: a Streamlit app over the server's HTTP interface. Never Redis, never torch.

`launch` how to start it; `app` navigation; `pages` one file a page; `charts`, `tables`, `marks` pure functions from the
server's views to what is drawn; `draft` and `controls` the settings panel; `session` a visitor's token and client.
"""
