"""How long runs are retained and how large they may grow, and the sweeper that enforces it."""
