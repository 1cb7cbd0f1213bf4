"""Scheduled and rule-based settings changes: when they are due, and their execution."""
