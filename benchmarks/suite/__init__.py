"""From options to finished runs: plan, tuning, processes, clusters, progress.

It does not know how results are shown.
"""
