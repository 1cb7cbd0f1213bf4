"""How the dashboard reads the server: a visitor's session, cached queries, availability, downloads."""
