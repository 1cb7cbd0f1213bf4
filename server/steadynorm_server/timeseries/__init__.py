"""Blocks, rollups and queries of a run's history. Pure functions over bytes, and their keys."""
