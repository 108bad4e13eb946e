"""Benchmarks of speed; each file is run as `python -m benchmarks.speed.NAME`."""
