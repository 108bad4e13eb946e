"""Statistics of stored results: means over seeds, intervals, comparisons.

It computes from records and class probabilities alone: it trains nothing, and knows no table, plot or page.
"""
