"""The stabilizer: reads and scales gradients on their device. No run, no network, no thread."""
