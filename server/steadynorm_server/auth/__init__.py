"""Tokens, roles, the token file and rate limits. Knows nothing of routes or Redis."""
