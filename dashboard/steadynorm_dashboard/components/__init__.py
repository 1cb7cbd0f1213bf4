"""Browser code and the Python that feeds it: the live chart, the runs table, plotly's library."""
