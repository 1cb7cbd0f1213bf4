"""How long runs are kept and how large they may grow, and what enforces it."""
