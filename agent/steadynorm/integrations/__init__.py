"""Callbacks for trainers that own the loop. Each module needs its framework, and says so when it is missing."""
