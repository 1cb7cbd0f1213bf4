"""Reads from the server: a visitor's session, cached queries, availability, downloads. Draws nothing."""
