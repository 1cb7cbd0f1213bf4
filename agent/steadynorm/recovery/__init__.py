"""A run that is brought back: snapshots in host memory, detectors, and the rollback of all ranks at one boundary."""
