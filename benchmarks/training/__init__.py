"""One training: its step, its loop, metrics, checkpoints, peak memory. It knows no other run."""
