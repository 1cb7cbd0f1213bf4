"""Who a request comes from: tokens, roles, the token file, rate limits. Knows nothing of routes."""
