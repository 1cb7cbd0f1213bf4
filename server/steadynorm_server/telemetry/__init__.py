"""A batch from the agent: validated, planned, committed once. Registration and the end of a run."""
