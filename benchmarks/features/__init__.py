"""The cache of frozen features: its files, how it is made and read, what there is of it.

It knows neither the model that makes its rows nor the runs that use them: both are handed in.
"""
