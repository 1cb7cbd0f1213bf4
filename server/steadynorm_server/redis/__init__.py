"""The Redis client, cluster routing, keys and scripts. Handles bytes, not runs."""
