"""The background threads that send batches and poll settings. Knows HTTP, nothing of optimizers or ranks."""
