"""The stabilizer: measures and scales gradients on their device. Knows no run, no network and no thread."""
