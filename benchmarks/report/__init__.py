"""Tables, plots and the page, from stored results alone.

It neither trains nor measures, and does not know the suite.
"""
