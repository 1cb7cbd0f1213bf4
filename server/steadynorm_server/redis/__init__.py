"""The Redis client, cluster routing, keys and scripts. Knows bytes, not runs."""
