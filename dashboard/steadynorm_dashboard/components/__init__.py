"""What runs in the browser, with the Python that feeds it: the live chart, the fleet table, static files."""
