"""What operators look at: a Streamlit app over the server's HTTP interface. Never Redis, never torch.

`launch` how to start it; `app` navigation; `pages` one file a page; `charts`, `tables`, `marks` pure functions from the
server's views to what is drawn; `draft`, `fields` and `controls` the settings panel;
`live_chart` redraws a figure in place; `session` a visitor's token and client.
"""
