"""A run as it is stored, and every query of it. Calls nobody above it."""
