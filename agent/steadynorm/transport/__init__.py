"""The background thread that sends batches and polls settings. Knows HTTP, nothing of torch.optim."""
