"""Settings changes: compare-and-set writes, bulk changes, and waiting for a newer revision."""
