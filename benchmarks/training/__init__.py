"""One training: step, loop, clock, checkpoints, scores, peak memory, preloading.

It knows neither the suite nor how results are stored.
"""
