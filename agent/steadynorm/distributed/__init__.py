"""What ranks exchange: the settings broadcast, mismatch fingerprints and shared failures. Knows torch.distributed,
nothing of HTTP.
"""
