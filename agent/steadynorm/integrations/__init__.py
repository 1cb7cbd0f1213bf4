"""Callbacks for trainers that own the training loop. Each module needs its framework installed."""
