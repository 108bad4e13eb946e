"""Benchmarks of the suite itself: before and after, as ratios in one run; `python -m benchmarks.speed.<name>`.

Nothing imports it.
"""
