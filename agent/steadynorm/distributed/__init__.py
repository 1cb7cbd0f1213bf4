"""What ranks exchange: settings, fingerprints of norms, and failures. Knows torch.distributed, nothing of HTTP."""
