"""The record of a run: what it must be, its file, which are stored, and all of them as a frame.

It knows nothing of how a run is done or shown.
"""
