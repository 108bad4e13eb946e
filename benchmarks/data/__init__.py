"""From a prepared folder to batches. It knows datasets, and neither methods nor backbones."""
