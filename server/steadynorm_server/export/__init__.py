"""Parquet downloads of a run, read from a snapshot of its history."""
